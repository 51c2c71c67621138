"""Gate `golden`: recorded requests are answered as recorded, within tolerance."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from tfs_deploy.errors import InvalidInput
from tfs_deploy.names import plural
from tfs_deploy.savedmodel.requests import GoldenRequest
from tfs_deploy.serving.codec.tensors import dtype_name
from tfs_deploy.serving.signature import Signature, check_inputs, covers, shape_text
from tfs_deploy.validation.gate import Candidate, Gate, ModelFiles, Outcome, Worse
from tfs_deploy.validation.report import Verdict

# Finite: with an infinite tolerance the gate passes every answer.
_NotNegative = Annotated[float, msgspec.Meta(ge=0.0, le=sys.float_info.max)]
_RECORD_AGAIN = "Record the golden requests again with this model's signatures."


# Structs, not dataclasses: a misspelt key must be an error here, or a gate would be silently missing.
class GoldenOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Recorded requests must be answered as recorded: ``|answer - recorded| <= atol + rtol * |recorded|``.

    `file` is a PredictionLog TFRecord; empty means the requests that the export wrote into the version.
    """

    file: str = ""
    rtol: _NotNegative = 1e-3
    atol: _NotNegative = 1e-5


class GoldenGate(Gate[GoldenOptions, tuple[GoldenRequest, ...]]):
    """Replay every recorded request; a version without recorded requests has nothing to replay."""

    name = "golden"
    options = GoldenOptions
    default = GoldenOptions()
    paths = ("file",)
    metrics: ClassVar[Mapping[str, Worse]] = {"golden_error": Worse.HIGHER}

    def prepare(self, options: GoldenOptions, files: ModelFiles) -> tuple[GoldenRequest, ...] | None:
        """Return the recorded requests, which fit the signatures of the model."""
        for number, request in enumerate(files.golden_requests, start=1):
            where = f"golden request {number} of {files.golden_source}"
            signature = files.signature(request.signature, where=f"G{where[1:]}", remedy=_RECORD_AGAIN)
            check_inputs(signature, request.inputs, where=where)
            _check_outputs(signature, request, where)
        return files.golden_requests or None

    def check(self, options: GoldenOptions, prepared: tuple[GoldenRequest, ...], candidate: Candidate) -> Outcome:
        """Compare every answer with the record."""
        largest = 0.0
        for number, request in enumerate(prepared, start=1):
            answer = candidate.predict(request.inputs, request.signature)
            for alias, expected in request.outputs.items():
                problem, error = _compare(expected, answer.outputs.get(alias), options)
                largest = max(largest, error)
                if problem:
                    detail = f"request {number}, output {alias!r}: {problem}"
                    return Outcome(Verdict.FAIL, detail, {"golden_error": largest})
        detail = f"{plural(len(prepared), 'recorded request')} answered as recorded, largest error {largest:.3g}"
        return Outcome(Verdict.PASS, detail, {"golden_error": largest})


def _check_outputs(signature: Signature, request: GoldenRequest, where: str) -> None:
    missing = sorted(set(request.outputs) - set(signature.outputs))
    if missing:
        raise InvalidInput(
            f"G{where[1:]} expects the output {missing[0]!r}, which signature {request.signature!r} lacks.",
            _RECORD_AGAIN,
        )
    for alias, array in request.outputs.items():
        spec = signature.outputs[alias]
        # Numbers of another dtype can be compared; text with numbers cannot.
        if (dtype_name(array) == "DT_STRING") != (spec.dtype == "DT_STRING") or not covers(spec.shape, array.shape):
            raise InvalidInput(
                f"G{where[1:]} expects the output {alias!r} as {dtype_name(array)} {shape_text(array.shape)}, but the "
                f"model answers with {spec}.",
                _RECORD_AGAIN,
            )


def _compare(expected: np.ndarray, answer: np.ndarray | None, options: GoldenOptions) -> tuple[str, float]:
    """Return the difference in words (empty: none) and the largest absolute difference."""
    if answer is None:
        return "no such output came back", 0.0
    if answer.shape != expected.shape:
        return f"shape {answer.shape} instead of the recorded {expected.shape}", 0.0
    if expected.dtype == object or answer.dtype == object:
        same = bool(np.array_equal(expected, answer))
        return ("" if same else "other strings than recorded"), 0.0
    if expected.size == 0:
        return "", 0.0
    wide = np.complex128 if np.iscomplexobj(expected) else np.float64
    a, b = expected.astype(wide), answer.astype(wide)
    if np.allclose(b, a, rtol=options.rtol, atol=options.atol, equal_nan=True):
        return "", _largest(a, b)
    error = _largest(a, b)
    return f"differs by up to {error:.3g} from the record (rtol {options.rtol:g}, atol {options.atol:g})", error


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    difference = np.abs(np.where(np.isnan(a) & np.isnan(b), 0, b - a))
    # Finite, because JSON has no infinity: a difference that is no number counts as the largest one there is.
    largest = np.finfo(np.float64).max
    return float(np.max(np.nan_to_num(difference, nan=largest, posinf=largest)))
