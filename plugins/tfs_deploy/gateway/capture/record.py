"""One captured request and its answer, and the PredictionLog that it becomes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tfs_deploy.gateway.upstream.answer import Arrays
from tfs_deploy.serving.codec import messages, tensors


@dataclass(frozen=True, slots=True, eq=False)
class CapturedRequest:
    """What went to a model server and what came back; `at` is in seconds since 1970."""

    model: str
    signature: str
    version: int
    label: str
    inputs: Arrays
    outputs: Arrays
    at: float

    @property
    def size(self) -> int:
        """Return about how many bytes its record takes."""
        return sum(_size(array) for arrays in (self.inputs, self.outputs) for array in arrays.values())

    def detached(self) -> CapturedRequest:
        """Return it with arrays of its own: an answer may be a few rows of a batch, and keep all of that in memory."""
        return replace(self, inputs=_detached(self.inputs), outputs=_detached(self.outputs))


def encode(request: CapturedRequest, *, rate: float) -> bytes:
    """Return the serialized PredictionLog of `request`, one of a sample of this `rate` (0 to 1).

    It says which version answered, and which label was asked for.
    """
    log = messages.PredictionLog()
    metadata = log.log_metadata
    metadata.model_spec.name = request.model
    metadata.model_spec.version.value = request.version
    metadata.model_spec.signature_name = request.signature
    metadata.sampling_config.sampling_rate = rate
    metadata.timestamp_secs = int(request.at)
    predict = log.predict_log
    predict.request.model_spec.name = request.model
    if request.label:
        predict.request.model_spec.version_label = request.label
    predict.request.model_spec.signature_name = request.signature
    predict.response.model_spec.name = request.model
    predict.response.model_spec.version.value = request.version
    predict.response.model_spec.signature_name = request.signature
    for arrays, protos in ((request.inputs, predict.request.inputs), (request.outputs, predict.response.outputs)):
        for alias, array in arrays.items():
            protos[alias].CopyFrom(tensors.to_proto(array))
    data: bytes = log.SerializeToString(deterministic=True)
    return data


def _detached(arrays: Arrays) -> Arrays:
    return {alias: array if array.base is None else array.copy() for alias, array in arrays.items()}


def _size(array: Any) -> int:
    if array.dtype.kind == "O":
        return sum(len(item) + 8 for item in array.reshape(-1).tolist())
    return int(array.nbytes)
