"""The sync agent: brings versions from a store that model servers cannot read to the disk beside one."""
