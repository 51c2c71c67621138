"""PredictionLog files of one model: records with redacted values, files closed when full or old, the oldest removed."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from tfs_deploy.clock import Clock
from tfs_deploy.errors import StoreError
from tfs_deploy.gateway.upstream.answer import Arrays
from tfs_deploy.savedmodel import tfrecord
from tfs_deploy.serving.codec import messages, tensors

logger = logging.getLogger(__name__)
SUFFIX = ".tfrecord"
# Suffix of a file that is still being written.
PARTIAL = ".partial"
# A model with little traffic must have finished files too.
_MAX_OPEN_SECONDS = 300.0
_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class CapturedRequest:
    """The inputs and the outputs of one request at a model server; `at` is in seconds since 1970."""

    model: str
    signature: str
    version: int
    label: str
    inputs: Arrays
    outputs: Arrays
    at: float

    @property
    def size(self) -> int:
        """Return the approximate size of its record in bytes."""
        return sum(_size(array) for arrays in (self.inputs, self.outputs) for array in arrays.values())

    def with_own_arrays(self) -> CapturedRequest:
        """Return a copy with arrays of its own; rows of a batch would keep the whole batch in memory."""
        return replace(self, inputs=_own_arrays(self.inputs), outputs=_own_arrays(self.outputs))


def encode(request: CapturedRequest, *, rate: float) -> bytes:
    """Return the serialized PredictionLog of `request`; `rate` (0 to 1) is the sampling rate.

    It includes the version that answered and the requested label.
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


def _own_arrays(arrays: Arrays) -> Arrays:
    return {alias: array if array.base is None else array.copy() for alias, array in arrays.items()}


def _size(array: Any) -> int:
    if array.dtype.kind == "O":
        return sum(len(item) + 8 for item in array.reshape(-1).tolist())
    return int(array.nbytes)


def redact(request: CapturedRequest, names: Collection[str]) -> CapturedRequest:
    """Return `request` without the values of the inputs and outputs `names`.

    A redacted input keeps its dtype and shape, with zeros or empty strings, so that the request can still warm up a
    model. All outputs are removed then: they would reveal the input, and do not match the blank one.
    """
    redacted = set(names) & request.inputs.keys()
    if redacted:
        inputs = {alias: _blank(array) if alias in redacted else array for alias, array in request.inputs.items()}
        return dataclasses.replace(request, inputs=inputs, outputs={})
    kept = {alias: array for alias, array in request.outputs.items() if alias not in names}
    return request if len(kept) == len(request.outputs) else dataclasses.replace(request, outputs=kept)


def _blank(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "OSU":
        return np.full(array.shape, b"", dtype=object)
    return np.zeros(array.shape, array.dtype)


class CaptureFiles:
    """Writes the capture files of one model; belongs to one thread.

    Names are ``MODEL-TIME-RANDOM.tfrecord``, so that several gateways may share a directory. `finished` is called with
    every closed file. All files of the model, those of earlier runs included, take at most `total_bytes`.
    """

    def __init__(
        self,
        directory: Path,
        model: str,
        *,
        total_bytes: int,
        file_bytes: int,
        clock: Clock,
        finished: Callable[[Path], None] = lambda path: None,
    ) -> None:
        self._directory = directory
        self._model = model
        self._total = total_bytes
        self._file_bytes = min(file_bytes, total_bytes)
        self._clock = clock
        self._on_finished = finished
        self._descriptor = -1
        self._path = Path()
        self._size = 0
        self._opened_at = 0.0
        self._not_before = 0.0

    def prepare(self) -> None:
        """Make the directory and check that it is writable; raise StoreError."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            probe = self._directory / f".{uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"The capture directory {self._directory} cannot be written: {error.strerror}.",
                "Correct `capture.directory`, or its permissions.",
            ) from error

    def append(self, record: bytes) -> bool:
        """Write one record, whole or not at all; return whether it was written."""
        if self._clock.monotonic() < self._not_before:
            return False
        data = b"".join(tfrecord.encode([record]))
        if len(data) > self._file_bytes:
            return False
        try:
            if self._descriptor >= 0 and self._size + len(data) > self._file_bytes:
                self.close()
            if self._descriptor < 0:
                self._open(len(data))
            self._write(data)
        except OSError as error:
            logger.warning(
                "Captures of %s cannot be written: %s; next attempt in %g s", self._model, error, _RETRY_SECONDS
            )
            self._not_before = self._clock.monotonic() + _RETRY_SECONDS
            with contextlib.suppress(OSError):
                self.close()
            return False
        return True

    def close_if_old(self) -> None:
        """Close the file if it has been open for `_MAX_OPEN_SECONDS`."""
        if self._descriptor >= 0 and self._clock.monotonic() - self._opened_at >= _MAX_OPEN_SECONDS:
            with contextlib.suppress(OSError):
                self.close()

    def close(self) -> None:
        """Close the file and give it its final name, or remove it if it is empty."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
        if not self._size:
            self._path.unlink()
            return
        final = self._path.with_suffix("")
        self._path.rename(final)
        self._on_finished(final)

    def _open(self, size: int) -> None:
        self._prune(size)
        name = f"{self._model}-{self._clock.now():%Y%m%dT%H%M%S}-{uuid4().hex[:8]}{SUFFIX}{PARTIAL}"
        self._path = self._directory / name
        # Readable by the owner only, because the content is users' data.
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._size = 0
        self._opened_at = self._clock.monotonic()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            # A full disk may have a part of the record: truncate to the end of the previous one.
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)

    def _prune(self, record_bytes: int) -> None:
        """Remove the oldest files until a new one fits."""
        pattern = re.compile(
            re.escape(self._model) + r"-\d{8}T\d{6}-[0-9a-f]{8}" + re.escape(SUFFIX) + f"({re.escape(PARTIAL)})?"
        )
        files = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if pattern.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        state = entry.stat()
                        files.append((state.st_mtime, entry.path, state.st_size))
        total = sum(size for _, _, size in files) + max(record_bytes, self._file_bytes)
        for _, path, size in sorted(files):
            if total <= self._total:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
