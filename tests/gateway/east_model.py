"""Write an EAST-style detector as a SavedModel: ``python east_model.py OUT``; a process of its own."""

from __future__ import annotations

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np
import tensorflow as tf


class East(tf.Module):
    """images `[1, h, w, 3]` of 0 to 1 -> `[1, h/4, w/4, 5]`: how bright each cell is, and the cell as its box.

    Channels: score, and the distances from the corner of the cell to the sides of the box: top, right, bottom, left.
    """

    def __init__(self) -> None:
        super().__init__()
        # One convolution, as in the real network: its stride makes the quarter, a wrong rank would reach oneDNN.
        kernel = np.zeros((4, 4, 3, 5), np.float32)
        kernel[..., 0] = 1 / 48
        self.kernel = tf.Variable(kernel)
        self.bias = tf.Variable(np.array([0, 0, 4, 4, 0], np.float32))

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.float32, name="images")])
    def __call__(self, images):
        return {"maps": tf.nn.conv2d(images, self.kernel, 4, "SAME") + self.bias}


if __name__ == "__main__":
    module = East()
    tf.saved_model.save(module, sys.argv[1], signatures={"serving_default": module.__call__})
