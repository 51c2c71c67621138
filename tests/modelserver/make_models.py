"""Write the small SavedModels of these tests below a directory: ``python make_models.py OUT``; a process of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import tensorflow as tf


class Scale(tf.Module):
    """x -> y = w * x and its sum; w tells versions apart."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = tf.Variable(w, name="w")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": x * self.w, "sum": tf.reduce_sum(x * self.w)}


class Several(tf.Module):
    """Other dtypes, two inputs, a slow loop, a convolution, a lookup table."""

    def __init__(self, vocabulary: str) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.ones([3, 3, 1, 2]))
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                vocabulary, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            ),
            -1,
        )

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.float32, name="a"), tf.TensorSpec([None], tf.int32, name="b")]
    )
    def add(self, a, b):
        return {"sum": a + tf.cast(b, tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, name="n")])
    def spin(self, n):
        state = tf.while_loop(lambda i, _: i < n, lambda i, s: (i + 1, tf.sin(s) + 1.0), (0, tf.zeros([])))
        return {"s": state[1]}

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32, name="images")])
    def conv(self, images):
        return {"out": tf.reduce_sum(tf.nn.conv2d(images, self.kernel, 1, "SAME"), axis=[1, 2])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="word")])
    def look_up(self, word):
        return {"id": self.table.lookup(word), "word": word, "first": word[0]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def dtypes(self, x):
        kinds = [
            tf.half, tf.bfloat16, tf.float64, tf.complex64, tf.complex128, tf.bool,
            tf.int8, tf.uint8, tf.int16, tf.uint16, tf.int32, tf.uint32, tf.int64, tf.uint64,
        ]  # fmt: skip
        return {kind.name: tf.cast(x, kind) for kind in kinds}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def echo(self, inputs):
        lengths = tf.cast(tf.strings.length(inputs), tf.float32)
        other = tf.fill(tf.shape(inputs), b"\xff")
        return {"classes": tf.stack([inputs, other], 1), "scores": lengths[:, None] * [1, 0]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def slow(self, inputs):
        return {"outputs": tf.zeros_like(inputs, tf.float32) + self.spin(2_000_000_000)["s"]}


class Rest(tf.Module):
    """What JSON can and cannot carry."""

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
    def matrix(self, x):
        return {"y": x * 2.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.half, name="x")])
    def half(self, x):
        return {"y": tf.cast(x, tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.uint8, name="x")])
    def small(self, x):
        return {"y": x}

    @tf.function(
        input_signature=[
            tf.TensorSpec(None, tf.float64, name="d"),
            tf.TensorSpec(None, tf.int64, name="i"),
            tf.TensorSpec(None, tf.bool, name="b"),
        ]
    )
    def several(self, d, i, b):
        return {"d": d, "i": i, "b": b}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.string, name="text")])
    def text(self, text):
        return {"raw": text, "raw_bytes": text}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs):
        scores = self.regress(inputs)["outputs"][:, None] * [1.0, 0.5]
        return {"classes": tf.fill(tf.shape(scores), 'a "b"'), "scores": scores}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(self, inputs):
        features = {
            "x": tf.io.FixedLenFeature([], tf.float32, 0.0),
            "n": tf.io.FixedLenFeature([], tf.int64, 0),
            "s": tf.io.FixedLenFeature([], tf.string, ""),
        }
        read = tf.io.parse_example(inputs, features)
        return {
            "outputs": read["x"] + tf.cast(read["n"], tf.float32) + tf.cast(tf.strings.length(read["s"]), tf.float32)
        }


class Ends(tf.Module):
    """A signature that ends the process: an abort, or exit(0)."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def abort(self, x):
        with tf.control_dependencies([tf.raw_ops.Abort(error_msg="of the test")]):
            return {"y": tf.identity(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def leave(self, x):
        with tf.control_dependencies([tf.raw_ops.Abort(exit_without_error=True)]):
            return {"y": tf.identity(x)}


def main(out: Path) -> None:
    for w in (1, 2, 3):
        module = Scale(float(w))
        tf.saved_model.save(module, str(out / f"scale{w}"), signatures=module.__call__)
    vocabulary = out / "vocabulary.txt"
    vocabulary.write_text("zero\none\ntwo\n")
    several = Several(str(vocabulary))
    names = ("add", "spin", "conv", "look_up", "dtypes", "echo", "slow")
    tf.saved_model.save(several, str(out / "several"), signatures={name: getattr(several, name) for name in names})
    rest = Rest()
    names = ("matrix", "half", "small", "several", "text", "classify", "regress")
    tf.saved_model.save(rest, str(out / "rest"), signatures={name: getattr(rest, name) for name in names})
    ends = Ends()
    tf.saved_model.save(ends, str(out / "ends"), signatures={"abort": ends.abort, "leave": ends.leave})
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        y = tf.identity(x * tf.compat.v1.get_variable("w", initializer=5.0), name="y")
        session.run(tf.compat.v1.global_variables_initializer())
        builder = tf.compat.v1.saved_model.Builder(str(out / "graph5"))
        signature = tf.compat.v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()


main(Path(sys.argv[1]))
