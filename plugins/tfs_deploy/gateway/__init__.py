"""The gateway: JSON, pictures and text in over HTTP, predictions of the live version out."""
