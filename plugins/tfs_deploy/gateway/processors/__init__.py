"""Convert the items of a request to input tensors, and output tensors to JSON results."""
