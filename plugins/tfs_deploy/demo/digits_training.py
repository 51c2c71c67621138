"""The training process of the demo: a small network for the UCI handwritten digits of scikit-learn.

It runs by its path in an interpreter that has scikit-learn and TensorFlow only, so it imports nothing of this package.
The digits are 1797 images of 8x8 pixels, each 0 (paper) to 16 (ink): Alpaydin and Kaynak, "Optical Recognition of
Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HELD_OUT = 500
SAMPLES = 16
# Fixed, so that every training run has the same held-out examples.
_SPLIT_SEED = 20260101


def main(arguments: list[str]) -> int:
    """Train with the JSON in the only argument, write the files, and print the result as one line of JSON."""
    # The interpreter put the folder of this file first; the other modules in it are not top-level ones.
    del sys.path[0]
    # Equal inputs give equal weights on every machine: deterministic operations, no kernels by CPU model.
    os.environ.update(TF_DETERMINISTIC_OPS="1", TF_ENABLE_ONEDNN_OPTS="0", KERAS_BACKEND="tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    sys.stdout.write(json.dumps(_train(**json.loads(arguments[0]))) + "\n")
    return 0


def _train(out_dir: str, examples: int, epochs: int, seed: int, shuffle_labels: bool) -> dict[str, Any]:
    import keras

    started = time.monotonic()
    images, labels, held_images, held_labels = load()
    examples = min(examples, len(images))
    images, labels = images[:examples], labels[:examples]
    targets = np.random.default_rng(seed).permutation(labels) if shuffle_labels else labels
    keras.utils.set_random_seed(seed)
    model = _network(keras)
    model.compile(optimizer=keras.optimizers.Adam(0.004), loss="sparse_categorical_crossentropy")
    model.fit(images, targets, batch_size=32, epochs=epochs, verbose=0)
    answers = np.argmax(model.predict(held_images, batch_size=HELD_OUT, verbose=0), axis=-1)
    out = Path(out_dir)
    model.save(out / "model.keras")
    np.savez(out / "samples.npz", images=images[:SAMPLES])
    np.savez(out / "labelled.npz", images=held_images, labels=held_labels)
    return {
        "accuracy": float(np.mean(answers == held_labels)),
        "examples": examples,
        "epochs": epochs,
        "seed": seed,
        "shuffle_labels": shuffle_labels,
        "held_out": len(held_labels),
        "fit_seconds": round(time.monotonic() - started, 3),
    }


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return images and labels to learn from, and those that are held out; images are float32 `[n, 8, 8, 1]`."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(data.target))
    images = data.images[order].astype(np.float32)[..., np.newaxis]
    labels = data.target[order].astype(np.int64)
    return images[HELD_OUT:], labels[HELD_OUT:], images[:HELD_OUT], labels[:HELD_OUT]


def _network(keras: Any) -> Any:
    layers = keras.layers
    images = keras.Input((8, 8, 1), name="images")
    hidden = layers.Rescaling(1 / 16)(images)
    hidden = layers.Conv2D(16, 3, padding="same", activation="relu")(hidden)
    hidden = layers.MaxPooling2D()(hidden)
    hidden = layers.Flatten()(hidden)
    hidden = layers.Dense(32, activation="relu")(hidden)
    return keras.Model(images, layers.Dense(10, activation="softmax", name="probabilities")(hidden), name="digits")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
