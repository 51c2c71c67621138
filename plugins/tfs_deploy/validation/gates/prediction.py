"""Gate `prediction`: every signature is asked once, because AVAILABLE proves no inference (contract 20.7, 20.11)."""

from __future__ import annotations

import numpy as np

from tfs_deploy.errors import ModelServerError
from tfs_deploy.names import plural
from tfs_deploy.serving.codec.tensors import NUMPY_BY_NAME
from tfs_deploy.serving.signature import Signature, TensorSpec
from tfs_deploy.validation.candidate import Candidate
from tfs_deploy.validation.config import Gates
from tfs_deploy.validation.report import Check, Verdict

NAME = "prediction"
# A made-up request has this size along a dimension that the signature leaves open beyond the batch.
_OPEN_DIMENSION = 32
# Made-up data may be wrong for the model without the model being wrong.
_BLAMES_THE_DATA = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE"})


def check_prediction(candidate: Candidate, gates: Gates) -> Check | None:
    """Ask every signature with a recorded request, or with a made-up one where none is recorded.

    A made-up request that the model calls invalid proves nothing either way, so at least one signature must answer.
    """
    if not gates.prediction:
        return None
    answered: list[str] = []
    unproven: list[str] = []
    recorded = {request.signature: request.inputs for request in candidate.material.golden}
    for name, signature in sorted(candidate.material.manifest.signatures.items()):
        inputs = recorded.get(name) or made_up_inputs(signature)
        try:
            candidate.predict(inputs, name)
        except ModelServerError as error:
            if name in recorded or error.code not in _BLAMES_THE_DATA:
                raise
            unproven.append(name)
        else:
            answered.append(name)
    detail = f"{len(answered)} of {plural(len(answered) + len(unproven), 'signature')} answered"
    if unproven:
        detail += f"; {', '.join(unproven)} refused a made-up request, so give golden requests for it"
    verdict = Verdict.PASS if answered else Verdict.INCONCLUSIVE
    return Check(NAME, candidate.client.target, verdict, detail)


def made_up_inputs(signature: Signature) -> dict[str, np.ndarray]:
    """Return zeros (strings: empty) that fit `signature`: batch 1, other open dimensions 32."""
    return {alias: _zeros(spec) for alias, spec in signature.inputs.items()}


def _zeros(spec: TensorSpec) -> np.ndarray:
    known = spec.shape if spec.shape is not None else (None,)
    shape = tuple(
        size if size is not None else (1 if axis == 0 else _OPEN_DIMENSION) for axis, size in enumerate(known)
    )
    if spec.dtype == "DT_STRING":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, dtype=NUMPY_BY_NAME[spec.dtype])
