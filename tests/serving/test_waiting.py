"""When a version counts as loaded on a group: by the rows that replicas report and the time that passes."""

from __future__ import annotations

import asyncio

import pytest

from fakes import AsyncFakeClient, FakeClient, FakeClock, FakeModelServer, FakeVersion
from tfs_deploy.errors import (
    Contention,
    DeadlineExceeded,
    LoadFailed,
    LoadInterrupted,
    SetupError,
    Transient,
    Unreachable,
)
from tfs_deploy.serving.config import ModelEntry, to_proto
from tfs_deploy.serving.replies import VersionState, VersionStatus
from tfs_deploy.serving.waiting import (
    GroupWatch,
    WaitLimits,
    is_available,
    pause_seconds,
    wait_until_available,
    wait_until_available_aio,
    wait_until_gone,
)

BUSY = Transient("It is busy.", "Wait.")
LIMITS = WaitLimits(discovery=10.0, load=30.0, stale_end=4.0, interval=0.5, rpc=1.0)


def row(state: str, code: str = "OK", text: str = "") -> tuple[VersionStatus, ...]:
    return (VersionStatus(5, VersionState(state), code, text),)


def watch() -> GroupWatch:
    return GroupWatch("m", 5, ("a:1", "b:1"), limits=LIMITS, started=0.0)


def test_every_replica_must_be_available():
    group = watch()
    group.on_status("a:1", row("AVAILABLE"), at=1.0)
    assert not group.is_done(at=1.0)
    assert group.pending == ("b:1",)
    group.on_status("b:1", row("LOADING"), at=1.0)
    assert not group.is_done(at=2.0)
    group.on_status("b:1", row("AVAILABLE"), at=3.0)
    assert group.is_done(at=3.0)


def test_an_end_with_an_error_fails_at_once_and_quotes_the_server():
    group = watch()
    group.on_status("b:1", row("LOADING"), at=0.1)
    with pytest.raises(LoadFailed, match=r"b:1 could not load version 5.*NOT_FOUND: no such file"):
        group.on_status("b:1", row("END", "NOT_FOUND", "no such file"), at=0.2)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        *((code, LoadInterrupted) for code in ("RESOURCE_EXHAUSTED", "ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")),
        ("PERMISSION_DENIED", SetupError),
        # The version was taken out of the config during its load.
        ("CANCELLED", Contention),
        *((code, LoadFailed) for code in ("NOT_FOUND", "INVALID_ARGUMENT", "DATA_LOSS", "FAILED_PRECONDITION")),
        *((code, LoadFailed) for code in ("INTERNAL", "UNKNOWN", "OUT_OF_RANGE", "UNIMPLEMENTED")),
    ],
)
def test_only_some_codes_of_a_failed_load_are_a_fault_of_the_version(code, error):
    group = watch()
    group.on_status("b:1", row("LOADING"), at=0.1)
    with pytest.raises(error) as caught:
        group.on_status("b:1", row("END", code, "why"), at=0.2)
    assert type(caught.value) is error


def test_an_end_from_an_earlier_life_is_ignored_for_a_while():
    group = watch()
    group.on_status("a:1", row("END"), at=1.0)
    assert not group.is_done(at=1.0)
    group.on_status("a:1", row("LOADING"), at=2.0)
    group.on_status("a:1", row("AVAILABLE"), at=3.0)
    group.on_status("b:1", row("END"), at=3.0)
    with pytest.raises(Contention, match="unloaded version 5"):
        group.on_status("b:1", row("END"), at=4.5)


def test_not_found_is_not_yet_until_the_discovery_deadline():
    group = watch()
    group.on_status("a:1", row("AVAILABLE"), at=1.0)
    group.on_status("b:1", (), at=1.0)
    assert not group.is_done(at=10.9)
    with pytest.raises(DeadlineExceeded, match="b:1 did not see version 5 of model 'm' within 10 s"):
        group.is_done(at=11.0)


def test_the_discovery_time_counts_from_the_first_answer_of_a_busy_replica():
    group = watch()
    group.on_status("a:1", row("AVAILABLE"), at=1.0)
    group.on_error("b:1", BUSY)
    assert not group.is_done(at=12.0)
    group.on_status("b:1", (), at=12.0)
    group.on_error("b:1", BUSY)
    assert not group.is_done(at=23.0), "busy is not an answer"
    group.on_status("b:1", row("LOADING"), at=24.0)
    group.on_status("b:1", (), at=25.0)
    assert not group.is_done(at=25.0), "a replica that restarted gets the time again"


def test_the_moment_of_each_replica_is_the_first_answer_that_says_available():
    group = watch()
    group.on_status("a:1", row("AVAILABLE"), at=0.0)
    group.on_status("a:1", row("AVAILABLE"), at=2.0)
    group.on_status("b:1", row("LOADING"), at=2.0)
    assert group.available_at == {"a:1": 0.0}
    group.on_status("b:1", row("AVAILABLE"), at=3.0)
    assert group.available_at == {"a:1": 0.0, "b:1": 3.0}
    group.on_error("a:1", BUSY)
    group.on_status("a:1", row("AVAILABLE"), at=4.0)
    assert group.available_at == {"a:1": 4.0, "b:1": 3.0}


@pytest.mark.parametrize(
    ("unchanged", "pending", "pause"),
    [(0.0, 1, 0.05), (10.0, 1, 0.05), (60.0, 1, 0.3), (10_000.0, 1, 1.0), (0.0, 100, 0.2), (10_000.0, 1000, 2.0)],
)
def test_a_pause_is_short_after_a_change_and_bounds_the_polls_of_a_large_group(unchanged, pending, pause):
    assert pause_seconds(WaitLimits(), unchanged=unchanged, pending=pending) == pytest.approx(pause)


def test_a_pause_is_short_again_once_a_replica_loads():
    group = GroupWatch("m", 5, ("a:1", "b:1"), limits=WaitLimits(), started=0.0)
    assert group.pause(at=50.0) == pytest.approx(0.25)
    group.on_status("a:1", row("LOADING"), at=50.0)
    assert group.pause(at=50.0) == pytest.approx(0.05)
    group.on_error("b:1", BUSY)
    assert group.pause(at=90.0) == pytest.approx(0.2), "busy is no change"
    assert group.pause(at=200.0) == pytest.approx(0.25), "but it may hide one"


def test_the_last_pause_ends_at_the_deadline():
    group = GroupWatch("m", 5, ("a:1",), limits=LIMITS, started=0.0)
    assert group.pause(at=29.9) == pytest.approx(0.1)
    assert group.pause(at=30.0) > 0.0


def test_loading_may_take_until_the_load_deadline():
    group = watch()
    group.on_status("a:1", row("AVAILABLE"), at=1.0)
    group.on_status("b:1", row("LOADING"), at=29.0)
    assert not group.is_done(at=29.0)
    with pytest.raises(DeadlineExceeded, match="still shows version 5 of model 'm' as LOADING after 30 s"):
        group.is_done(at=30.0)


def test_a_silent_replica_is_unreachable_only_when_time_is_up():
    group = watch()
    group.on_status("a:1", row("AVAILABLE"), at=1.0)
    group.on_error("b:1", Unreachable("connection refused.", "Start it."))
    assert not group.is_done(at=29.0)
    with pytest.raises(Unreachable, match="connection refused"):
        group.is_done(at=30.0)


def test_a_load_of_somebody_else_may_follow_an_unload():
    group = GroupWatch("m", 5, ("a:1",), limits=LIMITS, started=0.0, own_load=False)
    group.on_status("a:1", row("LOADING"), at=1.0)
    group.on_status("a:1", row("END"), at=9.0)
    assert not group.is_done(at=9.0)
    group.on_status("a:1", row("AVAILABLE"), at=20.0)
    assert group.is_done(at=20.0)
    with pytest.raises(LoadFailed, match="NOT_FOUND"):
        group.on_status("a:1", row("END", "NOT_FOUND"), at=21.0)


def test_one_poll_says_whether_a_version_is_available():
    server = loading_server()
    clients = {"x:1": FakeClient(server)}
    assert not is_available(clients, "m", 5, seconds=1.0)
    for _ in range(4):
        server.tick()
    assert is_available(clients, "m", 5, seconds=1.0)
    server.unreachable = True
    assert not is_available(clients, "m", 5, seconds=1.0)


def test_one_poll_fails_at_once_for_a_version_that_cannot_be_loaded():
    server = loading_server(FakeVersion(broken="no variables here"))
    for _ in range(4):
        server.tick()
    with pytest.raises(LoadFailed, match="no variables here"):
        is_available({"x:1": FakeClient(server)}, "m", 5, seconds=1.0)


def loading_server(content: FakeVersion | None = None) -> FakeModelServer:
    server = FakeModelServer(immediate=False)
    server.put("/models/m", 4)
    server.put("/models/m", 5, content)
    client = FakeClient(server)
    client.reload(to_proto([ModelEntry("m", "/models/m", (4,), {})]), timeout=1.0)
    client.reload(to_proto([ModelEntry("m", "/models/m", (4, 5), {})]), timeout=1.0)
    return server


class Busy:
    """A mixin for fake clients: every status but each (`failures` + 1)th fails."""

    failures = 0
    statuses = 0

    def fail_if_busy(self) -> None:
        self.statuses += 1
        if self.statuses % (self.failures + 1):
            raise BUSY


class BusyClient(Busy, FakeClient):
    def status(self, *args, **options):
        self.fail_if_busy()
        return super().status(*args, **options)


class AsyncBusyClient(Busy, AsyncFakeClient):
    async def status(self, *args, **options):
        self.fail_if_busy()
        return await super().status(*args, **options)


def wait_blocking(server: FakeModelServer, busy: int = 0) -> tuple[dict[str, float], list[float]]:
    """Return the moments and the pauses."""
    clock = FakeClock(on_sleep=server.tick)
    client = BusyClient(server)
    client.failures = busy
    moments = wait_until_available({"x:1": client}, "m", 5, limits=LIMITS, clock=clock)
    return moments, clock.slept


def wait_in_a_loop(server: FakeModelServer, busy: int = 0) -> tuple[dict[str, float], list[float]]:
    clock = FakeClock(on_sleep=server.tick)

    async def sleep(seconds: float) -> None:
        clock.sleep(seconds)

    client = AsyncBusyClient(server)
    client.failures = busy
    waiting = wait_until_available_aio({"x:1": client}, "m", 5, limits=LIMITS, clock=clock, sleep=sleep)
    moments = asyncio.run(waiting)
    return moments, clock.slept


@pytest.mark.parametrize("wait", [wait_blocking, wait_in_a_loop])
def test_both_loops_see_the_version_come(wait):
    server = loading_server()
    moments, pauses = wait(server)
    assert server.state("m", 5) == "AVAILABLE"
    assert moments == {"x:1": sum(pauses)}


def test_both_loops_pause_alike():
    assert wait_blocking(loading_server()) == wait_in_a_loop(loading_server())


@pytest.mark.parametrize("wait", [wait_blocking, wait_in_a_loop])
def test_a_replica_that_answers_one_status_in_twenty_is_waited_for(wait):
    assert list(wait(loading_server(), busy=19)[0]) == ["x:1"]


@pytest.mark.parametrize("wait", [wait_blocking, wait_in_a_loop])
def test_a_replica_that_is_always_busy_ends_the_wait_at_its_deadline(wait):
    server = loading_server()
    with pytest.raises(Unreachable, match=r"x:1 does not answer after a wait of 30 s: It is busy\."):
        wait(server, busy=10_000)


@pytest.mark.parametrize("wait", [wait_blocking, wait_in_a_loop])
def test_both_loops_end_with_the_servers_words(wait):
    server = loading_server(FakeVersion(broken="no variables here", error_code="DATA_LOSS"))
    with pytest.raises(LoadFailed, match="DATA_LOSS: no variables here"):
        wait(server)


def test_gone_means_end_on_every_replica():
    server = loading_server()
    for _ in range(4):
        server.tick()
    client = FakeClient(server)
    client.reload(to_proto([ModelEntry("m", "/models/m", (4,), {})]), timeout=1.0)
    wait_until_gone({"x:1": client}, "m", 5, limits=LIMITS, clock=FakeClock(on_sleep=server.tick))
    assert server.state("m", 5) == "END"
    with pytest.raises(DeadlineExceeded, match="still holds version 4"):
        wait_until_gone({"x:1": client}, "m", 4, limits=LIMITS, clock=FakeClock())
