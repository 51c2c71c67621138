"""Replays the warm-up requests of a version inside its load (contract 9): a request that fails, fails the load."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from tfs_deploy.modelserver import runtime
from tfs_deploy.modelserver.predict import run_predict
from tfs_deploy.modelserver.servable import Servable
from tfs_deploy.modelserver.status import Code, StatusError, invalid_argument
from tfs_deploy.savedmodel.requests import MAX_WARMUP_RECORDS, WARMUP_PATH
from tfs_deploy.serving import messages

logger = logging.getLogger(__name__)


def replay(directory: Path, servable: Servable, iterations: int) -> None:
    """Send every warm-up request of `directory` to `servable`, `iterations` times each; raise the first failure."""
    path = directory / WARMUP_PATH
    if not path.exists():
        return
    count = 0
    for record in _records(path):
        # After the 1000th: TF Serving complains of the 1001st only once that has been replayed.
        _replay_one(record, servable, iterations)
        count += 1
        if count > MAX_WARMUP_RECORDS:
            raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAX_WARMUP_RECORDS}) at {path}")
    logger.info("Finished reading warmup data for model at %s. Number of warmup records read: %s.", directory, count)


def _replay_one(record: bytes, servable: Servable, iterations: int) -> None:
    try:
        log = messages.PredictionLog.FromString(record)
    except DecodeError as error:
        shown = record.decode("utf-8", errors="replace")
        raise invalid_argument(f"Failed to parse warmup record: {shown} from {servable.name}") from error
    kind = log.WhichOneof("log_type")
    if kind is None:
        return
    if kind != "predict_log":
        number = log.DESCRIPTOR.fields_by_name[kind].number
        raise StatusError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")
    for _ in range(max(iterations, 1)):
        run_predict(servable, log.predict_log.request)


def _records(path: Path) -> Iterator[bytes]:
    """Yield the records with TensorFlow's own reader, whose words for damage are the contract."""
    tf: Any = runtime.tensorflow()
    from tensorflow.python.lib.io import _pywrap_record_io

    try:
        yield from _pywrap_record_io.RecordIterator(str(path), "")
    except tf.errors.DataLossError as error:
        raise StatusError(
            Code.DATA_LOSS, f"{error.message}. Please verify your warmup data is in TFRecord format."
        ) from error
