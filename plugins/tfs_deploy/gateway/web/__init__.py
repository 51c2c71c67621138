"""The HTTP side of the gateway: connections, routes, request bodies, replies."""
