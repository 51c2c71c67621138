"""Scores per class to the labels of the best classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.processors.protocol import Array, Arrays, BadAnswer, output_named
from tfs_deploy.gateway.processors.tensors import short_float


def read_labels(labels: Sequence[str], labels_file: str) -> tuple[str, ...]:
    """Return `labels`, or those in the UTF-8 `labels_file`, one per line, in the order of the classes."""
    if not labels_file:
        return tuple(labels)
    if labels:
        raise InvalidInput("Both labels and labels_file are given.", "Keep one of them.")
    try:
        text = Path(labels_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The labels_file {labels_file} cannot be read: {error}.", "Check the path.") from error
    return tuple(line.strip() for line in text.removesuffix("\n").split("\n"))


class ClassificationOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`labels`, or `labels_file` (UTF-8, one per line), in the order of the classes; without them the class index.

    `activation` is applied first, for models that return logits. `binary` means that the model returns one score per
    item, that of the second of two classes.
    """

    output: str = ""
    labels: tuple[str, ...] = ()
    labels_file: str = ""
    top: int = 1
    threshold: float | None = None
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    binary: bool = False


class ClassificationProcessor:
    """Returns ``{"label": …, "score": …, "classes": [{"label": …, "index": …, "score": …}, …]}``, the best first."""

    Options = ClassificationOptions
    reentrant = True
    paths = ("labels_file",)

    def __init__(self, options: ClassificationOptions) -> None:
        if options.top < 1:
            raise InvalidInput(f"The classification option top is {options.top}.", "Use 1 or more.")
        self._options = options
        self._labels = read_labels(options.labels, options.labels_file)

    def postprocess(self, outputs: Arrays) -> list[Any]:
        """Return the classes of each row of scores `[n, classes]`; label and score are null where none passes."""
        scores = self._scores(outputs)
        if self._options.binary:
            scores = np.concatenate([1 - scores, scores], axis=1)
        if self._labels and scores.shape[1] != len(self._labels):
            raise BadAnswer(
                f"The model has {scores.shape[1]} classes, but the number of labels is {len(self._labels)}.",
                "Give one label per class, in the order of the model's output.",
            )
        return [self._answer(row) for row in scores]

    def _scores(self, outputs: Arrays) -> Array:
        scores = output_named(outputs, self._options.output)
        if self._options.binary and scores.ndim == 1:
            scores = scores[:, np.newaxis]
        columns = 1 if self._options.binary else None
        if scores.ndim != 2 or scores.dtype.kind not in "fV" or columns not in (None, scores.shape[1]):
            expected = "[items] or [items, 1]" if self._options.binary else "[items, classes]"
            raise BadAnswer(
                f"The model answered with {scores.dtype} {list(scores.shape)} where scores {expected} are expected.",
                "Set the postprocessor's option output to the scores.",
            )
        activated = _activated(scores.astype(np.float64), self._options.activation)
        if np.isnan(activated).any():
            raise BadAnswer("The model's scores have NaN.", "Check the input, or roll the model back.")
        return activated

    def _answer(self, row: Array) -> dict[str, Any]:
        # Stable, so that the smaller of equal classes comes first on every machine.
        order = np.argsort(-row, kind="stable")[: self._options.top]
        threshold = self._options.threshold
        classes = [self._class(int(i), row[i]) for i in order if threshold is None or row[i] >= threshold]
        best = classes[0] if classes else {"label": None, "score": None}
        return {"label": best["label"], "score": best["score"], "classes": classes}

    def _class(self, number: int, score: np.float64) -> dict[str, Any]:
        label = self._labels[number] if self._labels else str(number)
        return {"label": label, "index": number, "score": short_float(score)}


def _activated(scores: Array, activation: str) -> Array:
    if activation == "softmax":
        # The largest is subtracted so that no exponential overflows; an empty row has none.
        with np.errstate(invalid="ignore"):  # infinite logits give NaN, which is an error
            exponentials = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
            return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))
    if activation == "sigmoid":
        # tanh does not overflow.
        return np.asarray(0.5 * (1 + np.tanh(0.5 * scores)))
    return scores
