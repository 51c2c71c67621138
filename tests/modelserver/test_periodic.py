"""The timing of the manager's ticks and of the polls. No TensorFlow."""

from __future__ import annotations

import threading
import time

from tfs_deploy.clock import SystemClock
from tfs_deploy.modelserver.lifecycle.periodic import Periodic


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
    assert enough.wait(10)
    periodic.stop()
    return begins[:count]


def test_the_first_call_is_at_once_and_the_period_counts_from_its_beginning():
    begins = begins_of(0.2, 3, lambda number: time.sleep(0.12))
    assert begins[0] < 0.1
    assert all(abs(begin - 0.2 * number) < 0.1 for number, begin in enumerate(begins)), begins


def test_after_a_call_that_took_longer_than_the_period_the_next_follows_at_once():
    begins = begins_of(0.1, 2, lambda number: time.sleep(0.3))
    assert 0.3 <= begins[1] < 0.38


def test_a_call_that_fails_ends_nothing():
    def fail(number: int) -> None:
        raise ValueError(number)

    assert len(begins_of(0.01, 3, fail)) == 3
