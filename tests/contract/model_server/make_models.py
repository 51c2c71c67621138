"""Write the contract suite's SavedModels below a directory: ``python make_models.py OUT``; a process of its own."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

# Those of the model server's own tests too: one import of TensorFlow writes all. It also sets TensorFlow's environment.
runpy.run_path(str(Path(__file__).resolve().parents[2] / "modelserver" / "make_models.py"))

import tensorflow as tf  # noqa: E402

EXAMPLES = [tf.TensorSpec([None], tf.string, name="inputs")]


class Examples(tf.Module):
    """Signatures over tf.Examples with a feature x, in the forms that Classify and Regress take or refuse."""

    @tf.function(input_signature=EXAMPLES)
    def classify(self, inputs):
        x = self._x(inputs)
        count = tf.shape(x)[0]
        return {"classes": tf.tile(tf.constant([["low", "high"]]), [count, 1]), "scores": tf.concat([1 - x, x], 1)}

    @tf.function(input_signature=EXAMPLES)
    def classes_only(self, inputs):
        return {"classes": tf.tile(tf.constant([["only"]]), [tf.shape(inputs)[0], 1])}

    @tf.function(input_signature=EXAMPLES)
    def regress(self, inputs):
        return {"outputs": self._x(inputs) * 2}

    @tf.function(input_signature=EXAMPLES)
    def flat_regress(self, inputs):
        return {"outputs": self._x(inputs)[:, 0] * 3}

    @tf.function(input_signature=EXAMPLES)
    def rank_1_scores(self, inputs):
        return {"scores": self._x(inputs)[:, 0]}

    @tf.function(input_signature=EXAMPLES)
    def one_row(self, inputs):
        return {"scores": self._x(inputs)[:1]}

    @tf.function(input_signature=EXAMPLES)
    def one_value(self, inputs):
        return {"outputs": self._x(inputs)[:1]}

    @tf.function(input_signature=EXAMPLES)
    def int_outputs(self, inputs):
        return {"outputs": tf.cast(self._x(inputs), tf.int64)}

    @tf.function(input_signature=EXAMPLES)
    def other_output(self, inputs):
        return {"y": self._x(inputs)}

    @tf.function(input_signature=[*EXAMPLES, tf.TensorSpec([None], tf.string, name="more")])
    def two_inputs(self, inputs, more):
        return {"outputs": self._x(inputs) + self._x(more)}

    def _x(self, serialized):
        return tf.io.parse_example(serialized, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]


class Shapes(tf.Module):
    """Fixed shapes, a scalar, bytes."""

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def rows(self, x):
        return {"n": tf.reduce_sum(x, 1)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    def scalar(self, x):
        return {"y": x + 1.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="word")])
    def echo(self, word):
        return {"word_bytes": word}

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.float32, name="a"), tf.TensorSpec([None], tf.float32, name="b")]
    )
    def pair(self, a, b):
        return {"a2": a * 2.0, "b2": b * 2.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.uint8, name="x")])
    def small(self, x):
        return {"y": x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.half, name="x")])
    def half(self, x):
        return {"y": x}


class Compiled(tf.Module):
    """One function that asks for XLA, as some Keras exports do, and one that does not."""

    @tf.function(jit_compile=True, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def compiled(self, x):
        return {"y": x * 2.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def plain(self, x):
        return {"y": x * 2.0}


def main(out: Path) -> None:
    for module in (Examples(), Shapes(), Compiled()):
        names = [name for name, value in vars(type(module)).items() if hasattr(value, "get_concrete_function")]
        signatures = {name: getattr(module, name) for name in names}
        tf.saved_model.save(module, str(out / type(module).__name__.lower()), signatures=signatures)


main(Path(sys.argv[1]))
