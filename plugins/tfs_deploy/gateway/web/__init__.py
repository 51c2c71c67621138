"""The HTTP side of the gateway: what strangers may ask, and how they are answered."""
