"""The model servers behind the gateway: which of them answers, with which version, and what happens when one dies."""
