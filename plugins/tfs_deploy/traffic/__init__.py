"""Requests at a fixed rate to a model on its replicas, and what became of them, by phase and by version."""
