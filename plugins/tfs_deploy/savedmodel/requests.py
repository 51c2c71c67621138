"""The requests inside a version: warm-up requests that TF Serving replays, golden requests with responses.

Both are TFRecord files of PredictionLog; a golden request also holds the response that was recorded at export.
TF Serving runs the warm-up file inside the load, before the version becomes AVAILABLE; it uses ``signature_name``,
ignores the model's name, compares no output, and refuses more than 1000 records (contract 9).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from tfs_deploy.errors import CorruptModel, InvalidInput
from tfs_deploy.savedmodel import tfrecord
from tfs_deploy.savedmodel.files import write_file
from tfs_deploy.serving.codec import messages, tensors

WARMUP_PATH = "assets.extra/tf_serving_warmup_requests"
GOLDEN_PATH = "assets.extra/tfs_deploy_golden_requests"
MAX_WARMUP_RECORDS = 1000
_REMEDY = "Write the file again from sample requests."


@dataclass(frozen=True, slots=True, eq=False)
class WarmupRequest:
    """Inputs for one signature."""

    signature: str
    inputs: dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class GoldenRequest:
    """Inputs for one signature and the outputs that were recorded for them."""

    signature: str
    inputs: dict[str, np.ndarray[Any, Any]]
    outputs: dict[str, np.ndarray[Any, Any]]


def write_warmup(path: Path, model: str, requests: Iterable[WarmupRequest | GoldenRequest]) -> None:
    """Write `requests` as TF Serving's warm-up file; raise InvalidInput for more than 1000 or none."""
    logs = [_log(model, request.signature, request.inputs, {}) for request in requests]
    if not 0 < len(logs) <= MAX_WARMUP_RECORDS:
        raise InvalidInput(
            f"A warm-up file holds 1 to {MAX_WARMUP_RECORDS} requests, not {len(logs)}.",
            "Give fewer sample requests: TF Serving refuses to load a version with more.",
        )
    _write(path, logs)


def write_golden(path: Path, model: str, requests: Iterable[GoldenRequest]) -> None:
    """Write `requests` with their recorded outputs; raise InvalidInput for one without outputs."""
    logs = []
    for number, request in enumerate(requests):
        if not request.outputs:
            raise InvalidInput(f"The golden request {number} has no outputs.", "Record the outputs of the model first.")
        logs.append(_log(model, request.signature, request.inputs, request.outputs))
    _write(path, logs)


def read_logs(path: Path) -> Iterator[Any]:
    """Yield the PredictionLog messages of `path`; raise NotFound without it, CorruptModel for a bad record."""
    return _logs(tfrecord.read_records(path), str(path))


def _logs(records: Iterable[bytes], where: str) -> Iterator[Any]:
    for number, record in enumerate(records):
        try:
            yield messages.PredictionLog.FromString(record)
        except DecodeError as error:
            raise CorruptModel(f"The record {number} of {where!r} is not a PredictionLog.", _REMEDY) from error


def read_warmup(path: Path) -> tuple[WarmupRequest, ...]:
    """Read the Predict requests of a warm-up file; other kinds of requests are left out."""
    requests = []
    for number, log in enumerate(read_logs(path)):
        if log.WhichOneof("log_type") == "predict_log":
            request = log.predict_log.request
            requests.append(
                WarmupRequest(_signature_name(request), _arrays(request.inputs, f"record {number} of {str(path)!r}"))
            )
    return tuple(requests)


def read_golden(path: Path) -> tuple[GoldenRequest, ...]:
    """Read golden requests; raise NotFound without the file, CorruptModel for a record without a response."""
    return _golden(read_logs(path), str(path))


def parse_golden(data: bytes, *, where: str) -> tuple[GoldenRequest, ...]:
    """Parse golden requests from the bytes of a file, called `where` in errors; see `read_golden`."""
    return _golden(_logs(tfrecord.decode(io.BytesIO(data), where=where), where), where)


def _golden(logs: Iterable[Any], source: str) -> tuple[GoldenRequest, ...]:
    requests = []
    for number, log in enumerate(logs):
        where = f"record {number} of {source!r}"
        if log.WhichOneof("log_type") != "predict_log" or not log.predict_log.response.outputs:
            raise CorruptModel(f"The {where} is not a Predict request with its response.", _REMEDY)
        predict = log.predict_log
        requests.append(
            GoldenRequest(
                _signature_name(predict.request),
                _arrays(predict.request.inputs, where),
                _arrays(predict.response.outputs, where),
            )
        )
    return tuple(requests)


def _signature_name(request: Any) -> str:
    # TF Serving reads an empty signature name the same way (contract 7.2).
    return str(request.model_spec.signature_name) or "serving_default"


def _arrays(protos: Mapping[str, Any], where: str) -> dict[str, np.ndarray[Any, Any]]:
    arrays = {}
    for alias in sorted(protos):
        try:
            arrays[alias] = tensors.to_array(protos[alias])
        except (CorruptModel, InvalidInput) as error:
            raise CorruptModel(f"The tensor {alias!r} in {where} cannot be read: {error.cause}", _REMEDY) from error
    return arrays


def _log(
    model: str,
    signature: str,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    outputs: Mapping[str, np.ndarray[Any, Any]],
) -> Any:
    log = messages.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for alias, array in inputs.items():
        request.inputs[alias].CopyFrom(tensors.to_proto(array))
    for alias, array in outputs.items():
        log.predict_log.response.outputs[alias].CopyFrom(tensors.to_proto(array))
    if outputs:
        log.predict_log.response.model_spec.name = model
        log.predict_log.response.model_spec.signature_name = signature
    return log


def _write(path: Path, logs: Iterable[Any]) -> None:
    # Deterministic: the order of map entries must not change the fingerprint.
    write_file(path, b"".join(tfrecord.encode(log.SerializeToString(deterministic=True) for log in logs)))
