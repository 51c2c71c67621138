"""Replays the warm-up requests of a version inside its load (contract 9): a request that fails, fails the load."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from tfs_deploy.modelserver import metrics, runtime
from tfs_deploy.modelserver.graph.servable import Servable
from tfs_deploy.modelserver.inference.classify_regress import run_classify, run_regress
from tfs_deploy.modelserver.inference.multi_inference import run_multi_inference
from tfs_deploy.modelserver.inference.predict import PredictOptions, run_predict
from tfs_deploy.modelserver.status import Code, StatusError, invalid_argument
from tfs_deploy.savedmodel.requests import MAX_WARMUP_RECORDS, WARMUP_PATH
from tfs_deploy.serving.codec import messages

logger = logging.getLogger(__name__)


def _run_predict(servable: Servable, request: Any, *, check_method_name: bool) -> bytes:
    return run_predict(servable, request, PredictOptions(check_method_name=check_method_name))


# By the field of PredictionLog; the model's name and version in a record are ignored, the signature is not.
_RUNS: dict[str, Callable[..., object]] = {
    "predict_log": _run_predict,
    "classify_log": run_classify,
    "regress_log": run_regress,
    "multi_inference_log": run_multi_inference,
}


def replay(directory: Path, servable: Servable, iterations: int, *, check_method_name: bool = False) -> None:
    """Send every warm-up request of `directory` to `servable`, `iterations` times each; raise the first failure."""
    path = directory / WARMUP_PATH
    if not path.exists():
        return
    count = 0
    begun = time.monotonic()
    for record in _records(path, begun):
        # TF Serving replays record 1001 before it raises this error.
        _replay_one(_parsed(record, path), servable, iterations, check_method_name)
        count += 1
        if count > MAX_WARMUP_RECORDS:
            raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAX_WARMUP_RECORDS}) at {path}")
    metrics.record_warmup(str(directory), begun)
    logger.info("Finished reading warmup data for model at %s. Number of warmup records read: %s.", directory, count)


def _parsed(record: bytes, path: Path) -> Any:
    """Return the PredictionLog; the error quotes the record's raw bytes, so it may be no UTF-8 (contract 20.7)."""
    try:
        return messages.PredictionLog.FromString(record)
    except DecodeError as error:
        shown = record.decode("utf-8", errors="surrogateescape")
        raise invalid_argument(f"Failed to parse warmup record: {shown} from {path}") from error


def _replay_one(log: Any, servable: Servable, iterations: int, check_method_name: bool) -> None:
    kind = log.WhichOneof("log_type")
    if kind is None:
        return
    run = _RUNS.get(kind)
    if run is None:
        number = log.DESCRIPTOR.fields_by_name[kind].number
        raise StatusError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")
    for _ in range(max(iterations, 1)):
        run(servable, getattr(log, kind).request, check_method_name=check_method_name)


def _records(path: Path, begun: float) -> Iterator[bytes]:
    """Yield the records with TensorFlow's own reader, whose messages for damage are the contract."""
    tf: Any = runtime.tensorflow()
    from tensorflow.python.lib.io import _pywrap_record_io

    try:
        yield from _pywrap_record_io.RecordIterator(str(path), "")
    except tf.errors.DataLossError as error:
        metrics.record_warmup(str(path.parents[1]), begun, f"{Code.DATA_LOSS.name}: {error.message}")
        raise StatusError(
            Code.DATA_LOSS, f"{error.message}. Please verify your warmup data is in TFRecord format."
        ) from error
