"""A version in memory: a SavedModel's graph in a TensorFlow session, and its signatures."""
