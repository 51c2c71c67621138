"""A job that is done again and again in a thread of its own, with the timing of TensorFlow's ``PeriodicFunction``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from tfs_deploy.clock import Clock

logger = logging.getLogger(__name__)


class Periodic:
    """Calls `job` at once, and then each `seconds` counted from its last beginning: a slow job is not waited after."""

    def __init__(self, job: Callable[[], object], seconds: float, clock: Clock, *, name: str) -> None:
        self._job = job
        self._seconds = seconds
        self._clock = clock
        self._name = name
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def stop(self) -> None:
        """End after the call that runs; return at once."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            begun = self._clock.monotonic()
            try:
                self._job()
            except Exception:  # one call that fails must not end all calls
                logger.exception("The job of %s failed", self._name)
            left = begun + self._seconds - self._clock.monotonic()
            if left > 0:
                self._stopped.wait(left)
