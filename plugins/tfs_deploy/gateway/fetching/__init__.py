"""Fetch what a client's URL names, without letting a stranger reach into the network that the gateway stands in."""
