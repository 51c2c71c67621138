"""The timing of the manager's ticks and of the polls, on a clock that only the job and the pauses move."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from modelserver.world import HandClock
from tfs_deploy.clock import SystemClock
from tfs_deploy.modelserver.lifecycle.source import Periodic


def begins_of(seconds: float, count: int, job: Callable[[HandClock], object]) -> list[float]:
    """Return when the first `count` calls of a job began, after the start."""
    clock = HandClock()
    begins: list[float] = []
    enough = threading.Event()

    def call() -> None:
        begins.append(clock.monotonic())
        if len(begins) == count:
            periodic.stop()
            enough.set()
        job(clock)

    periodic = Periodic(call, seconds, clock, name="test", wait=clock.sleep)
    periodic.start()
    assert enough.wait(30)
    return begins


def test_the_first_call_is_at_once_and_the_period_counts_from_its_beginning() -> None:
    assert begins_of(2.0, 3, lambda clock: clock.sleep(1.75)) == [0.0, 2.0, 4.0]


def test_after_a_call_that_took_longer_than_the_period_the_next_follows_at_once() -> None:
    assert begins_of(1.5, 3, lambda clock: clock.sleep(1.75)) == [0.0, 1.75, 3.5]


def test_a_call_that_fails_ends_nothing() -> None:
    def fail(clock: HandClock) -> None:
        raise ValueError(clock)

    assert begins_of(0.5, 3, fail) == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("period", [0.0, 30.0])
def test_a_stopped_job_is_not_called_again(period: float) -> None:
    called = threading.Event()
    periodic = Periodic(called.set, period, SystemClock(), name="stopped")
    periodic.start()
    assert called.wait(30)
    periodic.stop()
    for thread in [thread for thread in threading.enumerate() if thread.name == "stopped"]:
        thread.join(20)
        assert not thread.is_alive()
