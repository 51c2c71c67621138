"""Export: from a checkpoint to a SavedModel, one module per kind of checkpoint."""
