"""Writes the replies of Classify, Regress and MultiInference.

By hand, because a label is whatever bytes the model gives: TF Serving sends them as they are, Python's protobuf refuses
a `string` that is not UTF-8. Zero and empty values are left out, as proto3 does; negative zero is not zero.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from tfs_deploy.modelserver.inference.classify import Classifications
from tfs_deploy.modelserver.inference.regress import Regressions
from tfs_deploy.serving.codec.wire_format import lengthed

# classification.proto, regression.proto: fields of the responses, the results, a row, a class.
_RESULT, _SPEC = 1, 2
_ITEM = 1
_LABEL, _SCORE, _VALUE = 1, 2, 1
# inference.proto
_RESULTS, _RESULT_SPEC, _CLASSIFICATION, _REGRESSION = 1, 1, 2, 3
_FIXED32 = 5
_ZERO = b"\0\0\0\0"


def encode_classifications(answer: Classifications) -> bytes:
    """Return the serialized ClassificationResponse."""
    return lengthed(_RESULT, _classification_result(answer)) + lengthed(_SPEC, answer.answered.serialized())


def encode_regressions(answer: Regressions) -> bytes:
    """Return the serialized RegressionResponse."""
    return lengthed(_RESULT, _regression_result(answer)) + lengthed(_SPEC, answer.answered.serialized())


def encode_multi_inference(answers: Iterable[Classifications | Regressions]) -> bytes:
    """Return the serialized MultiInferenceResponse."""
    return b"".join(lengthed(_RESULTS, _inference_result(answer)) for answer in answers)


def _inference_result(answer: Classifications | Regressions) -> bytes:
    spec = lengthed(_RESULT_SPEC, answer.answered.serialized())
    if isinstance(answer, Classifications):
        return spec + lengthed(_CLASSIFICATION, _classification_result(answer))
    return spec + lengthed(_REGRESSION, _regression_result(answer))


def _classification_result(answer: Classifications) -> bytes:
    return b"".join(
        lengthed(_ITEM, b"".join(lengthed(_ITEM, _class(label, score)) for label, score in row))
        for row in answer.rows()
    )


def _class(label: bytes, score: float) -> bytes:
    return (lengthed(_LABEL, label) if label else b"") + _float(_SCORE, score)


def _regression_result(answer: Regressions) -> bytes:
    return b"".join(lengthed(_ITEM, _float(_VALUE, value)) for value in answer.values.tolist())


def _float(field: int, value: float) -> bytes:
    packed = struct.pack("<f", value)
    return b"" if packed == _ZERO else bytes((field << 3 | _FIXED32,)) + packed
