"""Classify and Regress on one version: labels and scores, or one number, for each tf.Example (contract 7.3).

The replies are written by hand, because a label may be any bytes: TF Serving sends them unchanged, Python's protobuf
refuses a `string` that is not UTF-8. Zero and empty values are omitted, as in proto3; negative zero is not zero.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tfs_deploy.modelserver.graph.servable import Array, Servable
from tfs_deploy.modelserver.inference import examples
from tfs_deploy.modelserver.inference.examples import ReplySpec
from tfs_deploy.modelserver.status import invalid_argument
from tfs_deploy.serving.codec.wire_format import length_delimited

_CLASSES, _SCORES, _OUTPUTS = "classes", "scores", "outputs"
_CLASSIFICATION, _REGRESSION = "classification", "regression"
# classification.proto, regression.proto: fields of the responses, the results, a row, a class.
_RESULT, _SPEC = 1, 2
_ITEM = 1
_LABEL, _SCORE, _VALUE = 1, 2, 1
_FIXED32 = 5
_ZERO = b"\0\0\0\0"


@dataclass(frozen=True, slots=True, eq=False)
class Classifications:
    """The answer: `labels` (bytes, in an object array) and `scores` (float32), of shape [examples, classes].

    One of them may be missing; both have the same shape.
    """

    spec: ReplySpec
    labels: Array | None
    scores: Array | None

    def rows(self) -> list[list[tuple[bytes, float]]]:
        """Return (label, score) by example and class; ``b""`` and 0 where the signature has no such output."""
        given = self.labels if self.labels is not None else self.scores
        if given is None:
            return []
        labels: Any = [[b""] * given.shape[1]] * given.shape[0] if self.labels is None else self.labels.tolist()
        scores: Any = [[0.0] * given.shape[1]] * given.shape[0] if self.scores is None else self.scores.tolist()
        return [list(zip(*row, strict=True)) for row in zip(labels, scores, strict=True)]

    def serialized_result(self) -> bytes:
        """Return the serialized ClassificationResult."""
        return b"".join(
            length_delimited(_ITEM, b"".join(length_delimited(_ITEM, _class(label, score)) for label, score in row))
            for row in self.rows()
        )


@dataclass(frozen=True, slots=True, eq=False)
class Regressions:
    """The answer: `values`, float32, of shape [examples]."""

    spec: ReplySpec
    values: Array

    def serialized_result(self) -> bytes:
        """Return the serialized RegressionResult."""
        return b"".join(length_delimited(_ITEM, _float(_VALUE, value)) for value in self.values.tolist())


def run_classify(
    servable: Servable, request: Any, *, check_method_name: bool = False, timeout_ms: int | None = None
) -> Classifications:
    """Answer a ClassificationRequest, whose version is chosen already; raise StatusError."""
    names = partial(classification_tensors, check_method_name=check_method_name)
    run = examples.run_signature(servable, request, "Classify", names, timeout_ms)
    return classifications(run.spec, run.signature, run.outputs, run.count)


def run_regress(
    servable: Servable, request: Any, *, check_method_name: bool = False, timeout_ms: int | None = None
) -> Regressions:
    """Answer a RegressionRequest, whose version is chosen already; raise StatusError."""
    names = partial(regression_tensors, check_method_name=check_method_name)
    run = examples.run_signature(servable, request, "Regress", names, timeout_ms)
    return regressions(run.spec, run.signature, run.outputs, run.count)


def encode_response(answer: Classifications | Regressions) -> bytes:
    """Return the serialized ClassificationResponse or RegressionResponse, which have the same fields."""
    return length_delimited(_RESULT, answer.serialized_result()) + length_delimited(_SPEC, answer.spec.serialized())


def classification_tensors(signature: Any, *, check_method_name: bool) -> tuple[str, list[str]]:
    """Return the tensor to feed and those to fetch; refuse a signature of another structure."""
    if check_method_name:
        examples.check_method(signature, _CLASSIFICATION, examples.CLASSIFY_METHOD)
    examples.check_one_input(signature)
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    feed = examples.input_tensor(signature, _CLASSIFICATION)
    fetches = [signature.outputs[alias].name for alias in (_CLASSES, _SCORES) if alias in signature.outputs]
    if not fetches:
        raise invalid_argument(
            f'Expected classification signature outputs to contain at least one of "{_CLASSES}" or "{_SCORES}". '
            f"Signature was: {examples.debug_string(signature)}"
        )
    return feed, list(dict.fromkeys(fetches))


def regression_tensors(signature: Any, *, check_method_name: bool) -> tuple[str, list[str]]:
    """Return the tensor to feed and those to fetch; refuse a signature of another structure."""
    if check_method_name:
        examples.check_method(signature, _REGRESSION, examples.REGRESS_METHOD)
    examples.check_one_input(signature)
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    feed = examples.input_tensor(signature, _REGRESSION)
    if _OUTPUTS not in signature.outputs:
        raise invalid_argument(f"No regression outputs found in SignatureDef: {examples.debug_string(signature)}")
    return feed, [signature.outputs[_OUTPUTS].name]


def classifications(spec: ReplySpec, signature: Any, outputs: Mapping[str, Array], count: int) -> Classifications:
    """Return the answer in `outputs`, which are by tensor name; refuse outputs of another shape or dtype."""
    labels, scores = (
        outputs[signature.outputs[alias].name] if alias in signature.outputs else None for alias in (_CLASSES, _SCORES)
    )
    if labels is not None and scores is labels:
        scores = None  # one tensor under both names counts as classes only
    if labels is not None:
        _check_classes(labels, _CLASSES, "DT_STRING", np.dtype(object), count)
    if scores is not None:
        _check_classes(scores, _SCORES, "DT_FLOAT", np.dtype(np.float32), count)
    if labels is not None and scores is not None and labels.shape[1] != scores.shape[1]:
        raise invalid_argument(
            f"Tensors class and score should match in dim_size(1). Got {labels.shape[1]} vs. {scores.shape[1]}"
        )
    return Classifications(spec, labels, scores)


def regressions(spec: ReplySpec, signature: Any, outputs: Mapping[str, Array], count: int) -> Regressions:
    """Return the answer in `outputs`, which are by tensor name; refuse an output of another shape or dtype."""
    output = outputs[signature.outputs[_OUTPUTS].name]
    if not (output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1)):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{examples.shape_text(output)}"
        )
    if output.shape[0] != count:
        raise invalid_argument(f"Input batch size did not match output batch size: {count} vs. {output.shape[0]}")
    if output.dtype != np.float32:
        raise examples.wrong_dtype("output", "DT_FLOAT", "  ", output)
    return Regressions(spec, output.reshape(-1))


def _check_classes(output: Array, alias: str, dtype: str, expected: np.dtype[Any], count: int) -> None:
    if output.ndim != 2:
        raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {examples.shape_text(output)}")
    if output.dtype != expected:
        raise examples.wrong_dtype(alias, dtype, " ", output)
    if output.shape[0] != count:
        raise invalid_argument(f"Expected {alias} output batch size of {count}. Got: {output.shape[0]}")


def _class(label: bytes, score: float) -> bytes:
    return (length_delimited(_LABEL, label) if label else b"") + _float(_SCORE, score)


def _float(field: int, value: float) -> bytes:
    packed = struct.pack("<f", value)
    return b"" if packed == _ZERO else bytes((field << 3 | _FIXED32,)) + packed
