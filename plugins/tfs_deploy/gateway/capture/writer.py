"""Capture requests without slowing one down: they are put into a bounded queue, and a thread writes them."""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Callable
from pathlib import Path

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.gateway.capture.copying import Copier
from tfs_deploy.gateway.capture.figures import CaptureFigures
from tfs_deploy.gateway.capture.files import CaptureFiles
from tfs_deploy.gateway.capture.record import CapturedRequest, encode
from tfs_deploy.gateway.capture.redaction import redacted
from tfs_deploy.gateway.capture.sampling import Sampler
from tfs_deploy.gateway.config import MIB, CaptureConfig

logger = logging.getLogger(__name__)

# What waits to be written, over all of the queue: a slow disk must not fill the memory.
_MAX_WAITING_BYTES = 64 * MIB
_LOOK_SECONDS = 1.0


class Capture:
    """The captures of one model; `wanted` and `offer` on the event loop, everything else in a thread of its own."""

    def __init__(
        self,
        model: str,
        config: CaptureConfig,
        *,
        copier: Copier | None = None,
        clock: Clock | None = None,
        draw: random.Random | None = None,
        files: Callable[..., CaptureFiles] = CaptureFiles,
    ) -> None:
        self.figures = CaptureFigures()
        self._config = config
        self._sampler = Sampler(config.percent, draw)
        self._record_bytes = int(config.record_mib * MIB)
        self._queue: queue.Queue[CapturedRequest | None] = queue.Queue(config.queue)
        self._waiting = 0
        self._lock = threading.Lock()
        self._copier = copier
        self._files = files(
            Path(config.directory),
            model,
            total_bytes=int(config.max_mib * MIB),
            file_bytes=int(config.file_mib * MIB),
            clock=clock or SystemClock(),
            finished=self._finished,
        )
        self._thread = threading.Thread(target=self._run, name=f"capture-{model}", daemon=True)

    def start(self) -> None:
        """Make the directory and begin; raise StoreError where that is not possible."""
        self._files.prepare()
        if self._copier is not None:
            self._copier.start()
        self._thread.start()

    def wanted(self) -> bool:
        """Tell whether the next request is one of the sample."""
        return self._sampler.takes()

    def offer(self, request: CapturedRequest) -> None:
        """Keep `request` if there is room for it; never waits, never raises."""
        try:
            self._take(request)
        except queue.Full:
            self.figures.note_dropped("busy")
        except Exception:  # whatever is wrong with a capture, the answer is on its way
            logger.exception("A request could not be captured")
            self.figures.note_dropped("failed")

    def close(self, seconds: float) -> None:
        """Write what waits and close the file, within `seconds`."""
        if not self._thread.is_alive():
            return
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)
        if self._copier is not None:
            self._copier.close(seconds)

    def _take(self, request: CapturedRequest) -> None:
        size = request.size
        if size > self._record_bytes:
            self.figures.note_dropped("too_large")
            return
        with self._lock:
            if self._waiting + size > _MAX_WAITING_BYTES:
                raise queue.Full
            self._waiting += size
        try:
            self._queue.put_nowait(request.detached())
        except queue.Full:
            self._release(size)
            raise

    def _run(self) -> None:
        while True:
            try:
                request = self._queue.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                self._files.tend()
                continue
            if request is None:
                break
            self._write(request)
            self._release(request.size)
            self._files.tend()
        try:
            self._files.close()
        except OSError as error:
            logger.warning("The last capture file could not be closed: %s", error)

    def _write(self, request: CapturedRequest) -> None:
        try:
            record = encode(redacted(request, self._config.redact), rate=self._sampler.rate)
            kept = self._files.append(record)
        except Exception:  # the thread must live
            logger.exception("A request could not be captured")
            self.figures.note_dropped("failed")
            return
        if kept:
            self.figures.note_written(len(record))
        else:
            self.figures.note_dropped("disk")

    def _release(self, size: int) -> None:
        with self._lock:
            self._waiting -= size

    def _finished(self, path: Path) -> None:
        if self._copier is not None and not self._copier.offer(path, self.figures):
            self.figures.note_copied(done=False)
