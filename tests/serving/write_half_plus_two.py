"""Write a SavedModel that computes y = x / 2 + 2: ``python write_half_plus_two.py OUT``; a process of its own."""

from __future__ import annotations

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import tensorflow as tf


class HalfPlusTwo(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = tf.Variable(0.5)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": x * self.slope + 2.0}


if __name__ == "__main__":
    module = HalfPlusTwo()
    tf.saved_model.save(module, sys.argv[1], signatures={"serving_default": module.__call__})
