"""Capture requests beside the event loop: one thread writes files, another one uploads finished files to a store."""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.errors import Contention, InvalidInput, TFSDeployError, Transient
from tfs_deploy.gateway.capture.files import CapturedRequest, CaptureFiles, encode, redact
from tfs_deploy.gateway.config import MIB, CaptureConfig
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import MAX_DOCUMENT_BYTES, Store

logger = logging.getLogger(__name__)
_MAX_WAITING = 64
_ATTEMPTS = 5
# The bytes that may wait to be written, so that a slow disk does not fill the memory.
_MAX_WAITING_BYTES = 64 * MIB
_POLL_SECONDS = 1.0


@dataclass(slots=True)
class CaptureCounts:
    """Counts since the start; `dropped` by reason: busy, too_large, disk, failed."""

    written: int = 0
    written_bytes: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    copied: int = 0
    copies_failed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count_written(self, size: int) -> None:
        """Count one record of `size` bytes."""
        with self._lock:
            self.written += 1
            self.written_bytes += size

    def count_dropped(self, reason: str) -> None:
        """Count one sampled request that was not captured."""
        with self._lock:
            self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def count_copied(self, *, done: bool) -> None:
        """Count one finished file that was uploaded, or could not be."""
        with self._lock:
            self.copied += done
            self.copies_failed += not done


class CaptureUploader:
    """Copies finished files to a store, in a thread of its own so that a store that hangs delays no capture."""

    def __init__(self, store: Store, model: str) -> None:
        self._store = store
        self._model = model
        self._queue: queue.Queue[tuple[Path, CaptureCounts] | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name=f"capture-copy-{model}", daemon=True)
        self._closing = threading.Event()

    @classmethod
    def from_config(cls, config: CaptureConfig, model: str) -> CaptureUploader | None:
        """Return the uploader of `model`, None where none is configured; raise InvalidInput or MissingExtra."""
        if not config.upload:
            return None
        if config.file_mib * MIB > MAX_DOCUMENT_BYTES:
            raise InvalidInput(
                f"`capture.file_mib` of model {model!r} is {config.file_mib:g}, but documents of a store have at most "
                f"{MAX_DOCUMENT_BYTES // MIB} MiB.",
                "Set `capture.file_mib` to a smaller value.",
            )
        return cls(open_store(config.upload), model)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, path: Path, counts: CaptureCounts) -> bool:
        """Queue `path` for its upload; return False where the queue is full."""
        try:
            self._queue.put_nowait((path, counts))
        except queue.Full:
            return False
        return True

    def close(self, seconds: float) -> None:
        """Upload the queued files within `seconds`; the others stay in the directory."""
        self._closing.set()
        if not self._thread.is_alive():
            return
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            path, counts = job
            try:
                self._copy(path)
            except (TFSDeployError, RetryError, OSError) as error:
                cause = error.last_attempt.exception() if isinstance(error, RetryError) else error
                logger.warning("The captures in %s were not uploaded: %s", path, cause)
                counts.count_copied(done=False)
            else:
                counts.count_copied(done=True)

    def _copy(self, path: Path) -> None:
        body = path.read_bytes()
        key = f"captures/{self._model}/{path.name}"
        retrying = Retrying(
            retry=retry_if_exception_type(Transient),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential(multiplier=0.5, max=30.0),
            sleep=self._pause,
        )
        for attempt in retrying:
            with attempt:
                try:
                    self._store.documents.write(key, body, expected=None)
                except Contention:
                    # An earlier attempt succeeded but its answer was lost; no other file has this name.
                    if self._store.documents.read(key) is None:
                        raise

    def _pause(self, seconds: float) -> None:
        self._closing.wait(seconds)  # returns at once while the gateway stops


class Sampler:
    """Selects a random `percent` of all requests."""

    def __init__(self, percent: float, draw: random.Random | None = None) -> None:
        self.rate = percent / 100.0
        self._draw = draw or random.Random()  # noqa: S311 - which requests are kept is no secret

    def sample(self) -> bool:
        """Return whether the next request is selected."""
        return self._draw.random() < self.rate


class Capture:
    """The captures of one model; `sampled` and `offer` run on the event loop, the rest in a thread of its own."""

    def __init__(
        self,
        model: str,
        config: CaptureConfig,
        *,
        uploader: CaptureUploader | None = None,
        clock: Clock | None = None,
        draw: random.Random | None = None,
        files: Callable[..., CaptureFiles] = CaptureFiles,
    ) -> None:
        self.counts = CaptureCounts()
        self._config = config
        self._sampler = Sampler(config.percent, draw)
        self._record_bytes = int(config.record_mib * MIB)
        self._queue: queue.Queue[CapturedRequest | None] = queue.Queue(config.queue)
        self._waiting = 0
        self._lock = threading.Lock()
        self._uploader = uploader
        self._files = files(
            Path(config.directory),
            model,
            total_bytes=int(config.max_mib * MIB),
            file_bytes=int(config.file_mib * MIB),
            clock=clock or SystemClock(),
            finished=self._on_finished,
        )
        self._thread = threading.Thread(target=self._run, name=f"capture-{model}", daemon=True)

    def start(self) -> None:
        """Make the directory and start the threads; raise StoreError."""
        self._files.prepare()
        if self._uploader is not None:
            self._uploader.start()
        self._thread.start()

    def sampled(self) -> bool:
        """Return whether the next request is captured."""
        return self._sampler.sample()

    def offer(self, request: CapturedRequest) -> None:
        """Queue `request`, or drop and count it where the queue is full; never waits, never raises."""
        try:
            self._enqueue(request)
        except queue.Full:
            self.counts.count_dropped("busy")
        except Exception:  # an error of a capture must not fail the request
            logger.exception("A request could not be captured")
            self.counts.count_dropped("failed")

    def close(self, seconds: float) -> None:
        """Write the queued requests and close the file, within `seconds`."""
        if not self._thread.is_alive():
            return
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)
        if self._uploader is not None:
            self._uploader.close(seconds)

    def _enqueue(self, request: CapturedRequest) -> None:
        size = request.size
        if size > self._record_bytes:
            self.counts.count_dropped("too_large")
            return
        with self._lock:
            if self._waiting + size > _MAX_WAITING_BYTES:
                raise queue.Full
            self._waiting += size
        try:
            self._queue.put_nowait(request.with_own_arrays())
        except queue.Full:
            self._release(size)
            raise

    def _run(self) -> None:
        while True:
            try:
                request = self._queue.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                self._files.close_if_old()
                continue
            if request is None:
                break
            self._write(request)
            self._release(request.size)
            self._files.close_if_old()
        try:
            self._files.close()
        except OSError as error:
            logger.warning("The last capture file could not be closed: %s", error)

    def _write(self, request: CapturedRequest) -> None:
        try:
            record = encode(redact(request, self._config.redact), rate=self._sampler.rate)
            kept = self._files.append(record)
        except Exception:  # the thread must continue
            logger.exception("A request could not be captured")
            self.counts.count_dropped("failed")
            return
        if kept:
            self.counts.count_written(len(record))
        else:
            self.counts.count_dropped("disk")

    def _release(self, size: int) -> None:
        with self._lock:
            self._waiting -= size

    def _on_finished(self, path: Path) -> None:
        if self._uploader is not None and not self._uploader.offer(path, self.counts):
            self.counts.count_copied(done=False)
