"""Fetch the URLs of clients, without giving them access to the network of the gateway."""
