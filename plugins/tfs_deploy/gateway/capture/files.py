"""The files of one model's captures: written one after the other, closed when full or old, the oldest removed."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from tfs_deploy.clock import Clock
from tfs_deploy.errors import StoreError
from tfs_deploy.savedmodel import tfrecord

logger = logging.getLogger(__name__)

SUFFIX = ".tfrecord"
# A file that is still written to: nobody else should read it.
PARTIAL = ".partial"
# So that a model with little traffic has finished files too.
_LONGEST_SECONDS = 300.0
_AGAIN_SECONDS = 5.0


class CaptureFiles:
    """Belongs to one thread. Names are ``MODEL-TIME-RANDOM.tfrecord``, so that several gateways may share a directory.

    `finished` is called with every closed file. Files of earlier runs count as its own: all files of the model
    together take at most `total_bytes`.
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
        self._finished = finished
        self._descriptor = -1
        self._path = Path()
        self._size = 0
        self._opened_at = 0.0
        self._not_before = 0.0

    def prepare(self) -> None:
        """Make the directory; raise StoreError where that is not possible, at start-up rather than hours later."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            probe = self._directory / f".{uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"The capture directory {self._directory} cannot be written: {error.strerror}.",
                "Correct capture.directory, or its rights.",
            ) from error

    def append(self, record: bytes) -> bool:
        """Write one record, whole or not at all; tell whether it is there."""
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
            logger.warning("Captures of %s cannot be written: %s; again in %g s", self._model, error, _AGAIN_SECONDS)
            self._not_before = self._clock.monotonic() + _AGAIN_SECONDS
            with contextlib.suppress(OSError):
                self.close()
            return False
        return True

    def tend(self) -> None:
        """Close the file if it has been open for long."""
        if self._descriptor >= 0 and self._clock.monotonic() - self._opened_at >= _LONGEST_SECONDS:
            with contextlib.suppress(OSError):
                self.close()

    def close(self) -> None:
        """Close the file and give it its final name, or remove it if nothing is in it."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
        if not self._size:
            self._path.unlink()
            return
        final = self._path.with_suffix("")
        self._path.rename(final)
        self._finished(final)

    def _open(self, room: int) -> None:
        self._prune(room)
        name = f"{self._model}-{self._clock.now():%Y%m%dT%H%M%S}-{uuid4().hex[:8]}{SUFFIX}{PARTIAL}"
        self._path = self._directory / name
        # For the owner only: what people sent is in it.
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._size = 0
        self._opened_at = self._clock.monotonic()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            # A full disk takes the beginning of a record: back to the end of the one before.
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)

    def _prune(self, room: int) -> None:
        """Remove the oldest files until a new one fits."""
        pattern = re.compile(
            re.escape(self._model) + r"-\d{8}T\d{6}-[0-9a-f]{8}" + re.escape(SUFFIX) + f"({re.escape(PARTIAL)})?"
        )
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if pattern.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        state = entry.stat()
                        found.append((state.st_mtime, entry.path, state.st_size))
        total = sum(size for _, _, size in found) + max(room, self._file_bytes)
        for _, path, size in sorted(found):
            if total <= self._total:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
