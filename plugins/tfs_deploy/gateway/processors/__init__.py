"""From what a person sends to what a model takes, and from what it answers to what a person reads."""
