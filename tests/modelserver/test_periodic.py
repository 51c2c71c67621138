"""The timing of the manager's ticks and of the polls. No TensorFlow."""

from __future__ import annotations

import threading
import time

from tfs_deploy.clock import SystemClock
from tfs_deploy.modelserver.lifecycle.source import Periodic


def begins_of(seconds: float, count: int, job=lambda number: None) -> list[float]:
    """Return when the first `count` calls of a job began, after the start."""
    begins: list[float] = []
    enough = threading.Event()
    started = time.monotonic()

    def call() -> None:
        begins.append(time.monotonic() - started)
        if len(begins) == count:
            enough.set()
        job(len(begins))

    periodic = Periodic(call, seconds, SystemClock(), name="test")
    periodic.start()
    assert enough.wait(30)
    periodic.stop()
    return begins[:count]


def test_the_first_call_is_at_once_and_the_period_counts_from_its_beginning():
    first, second = begins_of(2.0, 2, lambda number: time.sleep(1.8))
    assert first < 1.8
    # Counted from its end, the next call would come after 3.8 s.
    assert 2.0 <= second - first < 3.7


def test_after_a_call_that_took_longer_than_the_period_the_next_follows_at_once():
    first, second = begins_of(1.5, 2, lambda number: time.sleep(1.6))
    # One that waited for the next whole period would come after 3 s.
    assert 1.6 <= second - first < 2.9


def test_a_call_that_fails_ends_nothing():
    def fail(number: int) -> None:
        raise ValueError(number)

    assert len(begins_of(0.01, 3, fail)) == 3
