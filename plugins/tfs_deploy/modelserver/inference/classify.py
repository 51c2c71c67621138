"""Classify on one version: labels, scores, or both, for each tf.Example (contract 7.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tfs_deploy.modelserver.graph.servable import Array, Servable
from tfs_deploy.modelserver.inference import over_examples
from tfs_deploy.modelserver.inference.debug_string import debug_string
from tfs_deploy.modelserver.inference.over_examples import Answered
from tfs_deploy.modelserver.status import invalid_argument

_CLASSES, _SCORES = "classes", "scores"
_KIND = "classification"


@dataclass(frozen=True, slots=True, eq=False)
class Classifications:
    """The answer: `labels` (bytes, in an object array) and `scores` (float32), of shape [examples, classes].

    One of them may be missing; both have the same shape.
    """

    answered: Answered
    labels: Array | None
    scores: Array | None

    def rows(self) -> list[list[tuple[bytes, float]]]:
        """Return (label, score) by example and class; ``b""`` and 0 stand for what the signature has not."""
        given = self.labels if self.labels is not None else self.scores
        if given is None:
            return []
        labels: Any = [[b""] * given.shape[1]] * given.shape[0] if self.labels is None else self.labels.tolist()
        scores: Any = [[0.0] * given.shape[1]] * given.shape[0] if self.scores is None else self.scores.tolist()
        return [list(zip(*row, strict=True)) for row in zip(labels, scores, strict=True)]


def run_classify(
    servable: Servable, request: Any, *, check_method_name: bool = False, timeout_ms: int | None = None
) -> Classifications:
    """Answer a ClassificationRequest (its version is chosen already); raise StatusError."""
    names = partial(tensor_names, check_method_name=check_method_name)
    ran = over_examples.run_one(servable, request, "Classify", names, timeout_ms)
    return result(ran.answered, ran.signature, ran.outputs, ran.count)


def tensor_names(signature: Any, *, check_method_name: bool) -> tuple[str, list[str]]:
    """Return the tensor to feed and those to fetch; refuse a signature of another structure."""
    if check_method_name:
        over_examples.check_method(signature, _KIND, over_examples.CLASSIFY_METHOD)
    over_examples.check_one_input(signature)
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    feed = over_examples.input_tensor(signature, _KIND)
    fetches = [signature.outputs[alias].name for alias in (_CLASSES, _SCORES) if alias in signature.outputs]
    if not fetches:
        raise invalid_argument(
            f'Expected classification signature outputs to contain at least one of "{_CLASSES}" or "{_SCORES}". '
            f"Signature was: {debug_string(signature)}"
        )
    return feed, list(dict.fromkeys(fetches))


def result(answered: Answered, signature: Any, outputs: Mapping[str, Array], count: int) -> Classifications:
    """Return the answer in `outputs`, which are by tensor name; refuse outputs of another shape or dtype."""
    labels, scores = (
        outputs[signature.outputs[alias].name] if alias in signature.outputs else None for alias in (_CLASSES, _SCORES)
    )
    if labels is not None and scores is labels:
        scores = None  # one tensor under both names counts as classes only
    if labels is not None:
        _check(labels, _CLASSES, "DT_STRING", np.dtype(object), count)
    if scores is not None:
        _check(scores, _SCORES, "DT_FLOAT", np.dtype(np.float32), count)
    if labels is not None and scores is not None and labels.shape[1] != scores.shape[1]:
        raise invalid_argument(
            f"Tensors class and score should match in dim_size(1). Got {labels.shape[1]} vs. {scores.shape[1]}"
        )
    return Classifications(answered, labels, scores)


def _check(output: Array, alias: str, dtype: str, expected: np.dtype[Any], count: int) -> None:
    if output.ndim != 2:
        raise invalid_argument(
            f"Expected Tensor shape: [batch_size num_classes] but got {over_examples.shape_text(output)}"
        )
    if output.dtype != expected:
        raise over_examples.wrong_dtype(alias, dtype, " ", output)
    if output.shape[0] != count:
        raise invalid_argument(f"Expected {alias} output batch size of {count}. Got: {output.shape[0]}")
