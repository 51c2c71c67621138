"""Write tiny SavedModels below a directory: ``python write_models.py OUT NAME=COUNT...``; a process of its own.

Model NAME answers the COUNT smallest of the ten labelled examples 0 to 9 rightly.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf


class RightBelow(tf.Module):
    """Return x below a limit, and another number above it."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = tf.Variable(limit)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": tf.where(x < self.limit, x, x + 1)}


out = Path(sys.argv[1])
for argument in sys.argv[2:]:
    name, _, count = argument.partition("=")
    module = RightBelow(float(count))
    tf.saved_model.save(module, str(out / name), signatures={"serving_default": module.__call__})
examples = np.arange(10, dtype=np.float32)
np.savez(out / "labelled.npz", x=examples, labels=examples)
