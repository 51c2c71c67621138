"""Captured traffic to the request files of a version: golden requests with their answers, and warm-up requests."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from tfs_deploy.errors import CorruptModel, InvalidInput, NotFound
from tfs_deploy.gateway.capture.files import PARTIAL, SUFFIX
from tfs_deploy.savedmodel import requests, tfrecord
from tfs_deploy.savedmodel.requests import GoldenRequest, WarmupRequest
from tfs_deploy.serving.codec import messages, tensors

logger = logging.getLogger(__name__)

GOLDEN_FILE = Path(requests.GOLDEN_PATH).name
WARMUP_FILE = Path(requests.WARMUP_PATH).name
# TF Serving runs every warm-up request during the load; a few are enough to compile the graph.
MAX_WARMUP = 8


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """The result of `make_golden`; `read` counts records, `repeated` those with equal inputs, `other` those of
    other versions and models, `without_answer` those with redacted outputs.
    """

    model: str
    version: int
    golden: int
    warmup: int
    read: int
    repeated: int
    other: int
    without_answer: int
    golden_file: str
    warmup_file: str


@dataclass(frozen=True, slots=True, eq=False)
class _Captured:
    model: str
    version: int
    at: int
    log: Any

    @property
    def answered(self) -> bool:
        return bool(self.log.predict_log.response.outputs)

    def digest(self) -> bytes:
        request = messages.PredictRequest()
        request.CopyFrom(self.log.predict_log.request)
        request.ClearField("output_filter")
        request.model_spec.ClearField("version_label")
        return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def make_golden(captures: Sequence[Path], out: Path, *, model: str = "", most: int = 32) -> GoldenResult:
    """Write up to `most` different requests of the newest version in `captures` (files and directories) below `out`.

    They are spread evenly over the time of the captures, and all of one version, because outputs of versions differ.
    Raises InvalidInput without requests, or with several models and none named; NotFound and CorruptModel for files
    that cannot be read.
    """
    if most < 1:
        raise InvalidInput(f"The number of golden requests is {most}.", "Use 1 or more.")
    records = [captured for path in _files(captures) for captured in _read(path)]
    name = _model(records, model)
    of_model = [captured for captured in records if captured.model == name]
    version = max(captured.version for captured in of_model)
    usable = sorted(
        (captured for captured in of_model if captured.version == version), key=lambda captured: captured.at
    )
    different = list({captured.digest(): captured for captured in usable}.values())
    answered = [captured for captured in different if captured.answered]
    golden = [_golden(captured) for captured in _spread_evenly(answered, most)]
    warmup: list[WarmupRequest | GoldenRequest] = [
        WarmupRequest(_signature(captured), _arrays(captured.log.predict_log.request.inputs))
        for captured in _spread_evenly(answered or different, min(most, MAX_WARMUP))
    ]
    golden_path, warmup_path = out / GOLDEN_FILE, out / WARMUP_FILE
    if golden:
        requests.write_golden(golden_path, name, golden)
    requests.write_warmup(warmup_path, name, warmup)
    return GoldenResult(
        name,
        version,
        len(golden),
        len(warmup),
        len(records),
        len(usable) - len(different),
        len(records) - len(usable),
        len(different) - len(answered),
        str(golden_path) if golden else "",
        str(warmup_path),
    )


def _files(captures: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in captures:
        if path.is_dir():
            candidates = path.rglob(f"*{SUFFIX}*")
            files += sorted(file for file in candidates if file.name.endswith((SUFFIX, SUFFIX + PARTIAL)))
        else:
            files.append(path)
    if not files:
        raise NotFound(
            f"There are no capture files in {', '.join(map(str, captures))}.",
            f"Name files or directories with files that end with {SUFFIX}.",
        )
    return list(dict.fromkeys(files))


def _read(path: Path) -> Iterator[_Captured]:
    for record in _records(path):
        try:
            log = messages.PredictionLog.FromString(record)
        except DecodeError as error:
            raise CorruptModel(f"{path} has a record that is not a PredictionLog.", "Leave that file out.") from error
        if log.WhichOneof("log_type") == "predict_log":
            spec = log.predict_log.response.model_spec
            yield _Captured(spec.name, spec.version.value, log.log_metadata.timestamp_secs, log)


def _records(path: Path) -> Iterator[bytes]:
    """Yield the records of `path`; of a file that was not closed, its complete records."""
    try:
        yield from tfrecord.read_records(path)
    except CorruptModel as error:
        if not path.name.endswith(PARTIAL):
            raise
        logger.warning("The rest of %s is left out: %s", path, error.cause)


def _model(records: Iterable[_Captured], sampled: str) -> str:
    counts = Counter(captured.model for captured in records)
    if sampled and sampled not in counts:
        raise InvalidInput(
            f"The captures hold no request for model {sampled!r}.",
            f"Name one of: {', '.join(sorted(counts)) or 'none'}.",
        )
    if not counts:
        raise InvalidInput("The captures have no request.", "Capture some traffic first.")
    if not sampled and len(counts) > 1:
        raise InvalidInput(
            f"The captures have requests for {len(counts)} models: {', '.join(sorted(counts))}.",
            "Name one with --model.",
        )
    return sampled or next(iter(counts))


def _spread_evenly(captured: Sequence[_Captured], most: int) -> list[_Captured]:
    """Return at most `most` of `captured`, evenly spread, with the first and the last."""
    if len(captured) <= most:
        return list(captured)
    if most == 1:
        return [captured[0]]
    return [captured[round(place * (len(captured) - 1) / (most - 1))] for place in range(most)]


def _golden(captured: _Captured) -> GoldenRequest:
    predict = captured.log.predict_log
    return GoldenRequest(_signature(captured), _arrays(predict.request.inputs), _arrays(predict.response.outputs))


def _signature(captured: _Captured) -> str:
    return str(captured.log.predict_log.request.model_spec.signature_name) or "serving_default"


def _arrays(protos: Any) -> dict[str, Any]:
    return {alias: tensors.to_array(protos[alias]) for alias in sorted(protos)}
