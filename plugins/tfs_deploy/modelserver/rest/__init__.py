"""TF Serving's REST API (contract 8)."""
