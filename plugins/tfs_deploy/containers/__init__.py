"""TensorFlow Serving in Docker: options, command line, life cycle, labels, and what removes leftovers.

Nothing here talks to a model server: `tfs_deploy.serving` does that, and starts none.
"""
