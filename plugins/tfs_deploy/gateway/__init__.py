"""The gateway: an HTTP server that takes JSON, pictures and text, and returns predictions of the live version."""
