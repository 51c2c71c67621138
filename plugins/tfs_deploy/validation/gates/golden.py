"""Gate `golden`: recorded requests are answered as recorded, within tolerance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfs_deploy.errors import InvalidInput
from tfs_deploy.names import plural
from tfs_deploy.savedmodel.requests import GoldenRequest
from tfs_deploy.serving.signature import Signature, check_inputs
from tfs_deploy.validation.candidate import Candidate
from tfs_deploy.validation.config import Gates, GoldenGate
from tfs_deploy.validation.report import Check, Verdict

NAME = "golden"


def fit_golden(requests: tuple[GoldenRequest, ...], signatures: Mapping[str, Signature], *, where: str) -> None:
    """Raise InvalidInput if a recorded request cannot be put to a model with `signatures`."""
    for number, request in enumerate(requests, start=1):
        signature = signatures.get(request.signature)
        if signature is None:
            raise InvalidInput(
                f"Golden request {number} of {where} asks signature {request.signature!r}, which the model lacks "
                f"(it has {', '.join(sorted(signatures))}).",
                "Record the golden requests again with this model's signatures.",
            )
        check_inputs(signature, request.inputs, where=f"golden request {number} of {where}")
        missing = sorted(set(request.outputs) - set(signature.outputs))
        if missing:
            raise InvalidInput(
                f"Golden request {number} of {where} expects the output {missing[0]!r}, which signature "
                f"{request.signature!r} lacks.",
                "Record the golden requests again with this model's signatures.",
            )


def check_golden(candidate: Candidate, gates: Gates) -> Check | None:
    """Replay every recorded request against this version."""
    if not candidate.material.golden:
        return None
    largest = 0.0
    for number, request in enumerate(candidate.material.golden, start=1):
        answer = candidate.predict(request.inputs, request.signature)
        for alias, expected in request.outputs.items():
            problem, error = _compare(expected, answer.outputs.get(alias), gates.golden)
            largest = max(largest, error)
            if problem:
                return Check(
                    NAME,
                    candidate.client.target,
                    Verdict.FAIL,
                    f"request {number}, output {alias!r}: {problem}",
                    {"golden_error": largest},
                )
    count = len(candidate.material.golden)
    detail = f"{plural(count, 'recorded request')} answered as recorded, largest error {largest:.3g}"
    return Check(NAME, candidate.client.target, Verdict.PASS, detail, {"golden_error": largest})


def _compare(expected: np.ndarray, found: np.ndarray | None, gate: GoldenGate) -> tuple[str, float]:
    """Return what is wrong (empty: nothing) and the largest absolute difference."""
    if found is None:
        return "no such output came back", 0.0
    if found.shape != expected.shape:
        return f"shape {found.shape} instead of the recorded {expected.shape}", 0.0
    if expected.dtype == object or found.dtype == object:
        same = bool(np.array_equal(expected, found))
        return ("" if same else "other strings than recorded"), 0.0
    if expected.size == 0:
        return "", 0.0
    wide = np.complex128 if np.iscomplexobj(expected) else np.float64
    a, b = expected.astype(wide), found.astype(wide)
    if np.allclose(b, a, rtol=gate.rtol, atol=gate.atol, equal_nan=True):
        return "", _largest(a, b)
    error = _largest(a, b)
    return f"differs by up to {error:.3g} from the record (rtol {gate.rtol:g}, atol {gate.atol:g})", error


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    difference = np.abs(np.where(np.isnan(a) & np.isnan(b), 0, b - a))
    # Finite, because JSON has no infinity: a difference that is no number counts as the largest one there is.
    largest = np.finfo(np.float64).max
    return float(np.max(np.nan_to_num(difference, nan=largest, posinf=largest)))
