"""The sync agent: copies versions from a store that model servers cannot read to the disk of one of them."""
