"""Builders of tiny models; imported by exporting processes through their search path."""

import sys

import keras
import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


def classifier() -> keras.Model:
    """Return digits' shape in small: 4 features to 3 classes."""
    return keras.Sequential(
        [
            keras.Input((4,), name="features"),
            keras.layers.Dense(5, activation="relu", name="hidden"),
            keras.layers.Dropout(0.5),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(3, activation="softmax", name="scores"),
        ]
    )


def wider_classifier() -> keras.Model:
    return keras.Sequential([keras.Input((4,), name="features"), keras.layers.Dense(9, name="hidden")])


def recurrent() -> keras.Model:
    images = keras.Input((16, 24, 3), name="images")
    features = keras.layers.DepthwiseConv2D(8, 8, name="features")(images)
    return keras.Model(images, keras.layers.LSTM(2, name="state")(keras.layers.Reshape((-1, 3))(features)))


class Features(keras.layers.DepthwiseConv2D):
    def __init__(self, *, groups: int = 1, **arguments: object) -> None:
        super().__init__(**arguments)


def custom_objects() -> dict[str, object]:
    return {"TFOpLambda": Features}


def two_inputs() -> keras.Model:
    left, right = keras.Input((4,), name="left"), keras.Input((2,), dtype="int32", name="right")
    joined = keras.layers.Concatenate()([left, keras.ops.cast(right, "float32")])
    outputs = [keras.layers.Dense(3, name="sum")(joined), keras.layers.Dense(1, name="rank")(joined)]
    return keras.Model([right, left], outputs)


def dict_inputs() -> keras.Model:
    inputs = {"b": keras.Input((2,), name="b"), "a": keras.Input((3,), name="a")}
    joined = keras.layers.Concatenate()([inputs["b"], inputs["a"]])
    return keras.Model(inputs, {"z": keras.layers.Dense(2, name="z")(joined), "y": joined})


def checkpointed() -> dict[str, keras.Model]:
    return {"model": classifier()}


def checkpointed_with_more() -> dict[str, keras.Model]:
    model = classifier()
    model.add(keras.layers.Dense(2, name="extra"))
    return {"model": model}


class Scale(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = tf.Variable([2.0, 3.0], name="factor")
        self.words = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.constant(["small", "large"]), tf.constant([1.0, 10.0])), 0.0
        )

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x"), tf.TensorSpec([None], tf.string, "size")])
    def serve(self, x, size):
        return {"scaled": x * self.factor * self.words.lookup(size)[:, None], "size": tf.strings.upper(size)}


def scale() -> Scale:
    return Scale()


def scale_and_function():
    module = Scale()

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
    def double(x):
        return x * module.factor * 2.0

    return {"scale": module}, double


def best_class(outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    (scores,) = outputs.values()
    return {"class": tf.argmax(scores, axis=-1), "score": tf.reduce_max(scores, axis=-1)}


def not_a_dict(outputs: dict[str, tf.Tensor]) -> tf.Tensor:
    return next(iter(outputs.values()))


def detector(training: bool = False):
    """Return an EAST-like graph: images of any size to a score map of a quarter of it."""
    images = v1.placeholder(tf.float32, [None, None, None, 3], "input_images")
    with v1.variable_scope("feature"):
        kernel = v1.get_variable("kernel", [3, 3, 3, 4], initializer=v1.random_normal_initializer(seed=1))
        bias = v1.get_variable("bias", [4], initializer=v1.zeros_initializer())
        mean = v1.get_variable("moving_mean", [4], initializer=v1.ones_initializer(), trainable=False)
    features = tf.nn.relu(tf.nn.conv2d(images, kernel, 4, "SAME") + bias - mean)
    result = tf.sigmoid(tf.reduce_mean(features, axis=-1, keepdims=True), name="score_map")
    return {"images": images}, {"result": result}


def detector_with_more():
    inputs, outputs = detector()
    extra = v1.get_variable("missing/gain", [1])
    other = v1.get_variable("missing/offset", [1])
    return inputs, {"result": outputs["result"] * extra + other}


def threshold(outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {"result": tf.cast(outputs["result"] > 0.5, tf.float32)}


def raising():
    raise ValueError("no such layer type")


def leaving():
    sys.exit("the configuration is missing")


def hanging():
    import time

    time.sleep(600)


def crashing():
    import os
    import signal

    print("the end", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def number():
    return 7


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, 16, 24, 3)).astype(np.float32)


def features(count: int = 6) -> np.ndarray:
    return np.random.default_rng(6).normal(size=(count, 4)).astype(np.float32)
