"""Copies of finished capture files in a store: documents below ``captures/``, written once and never changed."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from tfs_deploy.errors import Contention, InvalidInput, TFSDeployError, Transient
from tfs_deploy.gateway.capture.figures import CaptureFigures
from tfs_deploy.gateway.config import MIB, CaptureConfig
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import MAX_DOCUMENT_BYTES, Store

logger = logging.getLogger(__name__)

_MAX_WAITING = 64
_ATTEMPTS = 5


class Copier:
    """Copies in a thread of its own, so that a store that hangs holds up no capture."""

    def __init__(self, store: Store, model: str) -> None:
        self._store = store
        self._model = model
        self._queue: queue.Queue[tuple[Path, CaptureFigures] | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name=f"capture-copy-{model}", daemon=True)
        self._closing = threading.Event()

    @classmethod
    def of(cls, config: CaptureConfig, model: str) -> Copier | None:
        """Return what copies the captures of `model`, None if nothing is to; raise InvalidInput or MissingExtra."""
        if not config.upload:
            return None
        if config.file_mib * MIB > MAX_DOCUMENT_BYTES:
            raise InvalidInput(
                f"Capture files of model {model!r} may have {config.file_mib:g} MiB, and a store takes "
                f"{MAX_DOCUMENT_BYTES // MIB} MiB at most.",
                "Set capture.file_mib to less.",
            )
        return cls(open_store(config.upload), model)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def offer(self, path: Path, figures: CaptureFigures) -> bool:
        """Copy `path` when its turn comes; tell whether there is room for it."""
        try:
            self._queue.put_nowait((path, figures))
        except queue.Full:
            return False
        return True

    def close(self, seconds: float) -> None:
        """Copy what waits, within `seconds`; what is left stays in the directory."""
        self._closing.set()
        if not self._thread.is_alive():
            return
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _run(self) -> None:
        while (found := self._queue.get()) is not None:
            path, figures = found
            try:
                self._copy(path)
            except (TFSDeployError, RetryError, OSError) as error:
                told = error.last_attempt.exception() if isinstance(error, RetryError) else error
                logger.warning("The captures in %s were not copied: %s", path, told)
                figures.note_copied(done=False)
            else:
                figures.note_copied(done=True)

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
                    # An attempt whose answer was lost: the name is of this file alone.
                    if self._store.documents.read(key) is None:
                        raise

    def _pause(self, seconds: float) -> None:
        self._closing.wait(seconds)  # not at all once the gateway ends
