"""The driver keeps its rate whatever the servers do, and says what became of every request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tfs_deploy.clock import SystemClock
from tfs_deploy.errors import InvalidInput, NotFound, Unreachable
from tfs_deploy.serving.codec import messages
from tfs_deploy.serving.rpc_calls import Address
from tfs_deploy.traffic.driver import NOT_SENT, TrafficDriver, TrafficPlan
from tfs_deploy.traffic.report import TrafficReport
from tfs_deploy.traffic.requests import TrafficRequest
from traffic.servers import MODEL, slow_servers

STABLE = Address(MODEL, label="stable")
REQUEST = TrafficRequest("serving_default", {"x": np.array([1.0], dtype=np.float32)}, "The request")


def run(
    plan: TrafficPlan,
    meanwhile: Callable[[], None] | None = None,
    until: Callable[[TrafficReport], bool] = lambda report: False,
) -> TrafficReport:
    """Run a plan until its end or `until`; call `meanwhile` on another thread after the first answer."""

    async def drive() -> TrafficReport:
        async with TrafficDriver(plan, SystemClock()) as driver:
            await driver.connect()
            stop = asyncio.Event()
            sending = asyncio.ensure_future(driver.run([REQUEST], stop))
            while not sending.done() and driver.recorder.report().total.requests == 0:
                await asyncio.sleep(0.01)
            if meanwhile is not None:
                await asyncio.to_thread(meanwhile)
            while not sending.done():
                await asyncio.sleep(0.01)
                if until(driver.recorder.report()):
                    stop.set()
            return await sending

    return asyncio.run(drive())


def answered_by(version: int) -> Callable[[TrafficReport], bool]:
    return lambda report: any(each.version == version for each in report.total.versions)


def test_every_replica_is_asked_in_turn_at_the_rate():
    with slow_servers(2) as servers:
        report = run(TrafficPlan(STABLE, tuple(servers), rate=50.0, seconds=1.0))
        asked = [sum(name == "Predict" for name, _ in server.requests) for server in servers.values()]
    assert asked == [25, 25]
    assert (report.total.requests, report.total.failed) == (50, 0)
    assert 0.98 <= report.total.seconds < 10.0
    assert [version.version for version in report.total.versions] == [1]


def test_a_stall_is_in_the_latency_of_every_request_that_was_due_in_it():
    with slow_servers() as servers:
        (server,) = servers.values()
        server.delays = [1.0]
        # One at a time: what is due during the stall waits, and counts from when it was due.
        report = run(TrafficPlan(STABLE, tuple(servers), rate=50.0, seconds=1.0, timeout=60.0, concurrency=1))
    assert (report.total.requests, report.total.failed) == (50, 0)
    # The requests of a stall of a second wait half a second on average; a closed loop would report one slow request.
    assert report.total.latency.p50_ms > 300.0
    assert report.total.latency.max_ms >= 1000.0


def test_what_waits_longer_than_its_time_is_not_sent():
    with slow_servers() as servers:
        (server,) = servers.values()
        server.delays = [1.0]
        report = run(TrafficPlan(STABLE, tuple(servers), rate=50.0, seconds=1.0, timeout=0.4, concurrency=1))
    assert report.total.requests == 50
    assert set(report.total.failures) <= {NOT_SENT, "DEADLINE_EXCEEDED"}
    assert report.total.failures["DEADLINE_EXCEEDED"] >= 1


def test_a_moved_label_begins_a_phase():
    with slow_servers() as servers:
        (server,) = servers.values()
        report = run(TrafficPlan(STABLE, tuple(servers), rate=50.0), lambda: server.move(2), answered_by(2))
    assert [[version.version for version in phase.versions] for phase in report.phases] == [[1], [2]]
    assert report.total.failed == 0
    assert report.ended_early == ""


def test_a_version_that_takes_other_inputs_ends_the_traffic():
    with slow_servers() as servers:
        (server,) = servers.values()
        report = run(TrafficPlan(STABLE, tuple(servers), rate=50.0), lambda: server.move(3))
    assert report.ended_early.startswith("Version 3 takes other inputs: The input 'x' of signature 'serving_default'")


def test_failures_are_counted_by_code_and_quoted_once():
    with slow_servers() as servers:
        (server,) = servers.values()
        server.fail_next("Predict", "RESOURCE_EXHAUSTED", "Server Threadpool Exhausted", times=3)
        server.fail_next("Predict", "INTERNAL", "broken")
        report = run(TrafficPlan(STABLE, tuple(servers), rate=50.0, seconds=0.4))
    assert (report.total.requests, report.total.failed) == (20, 4)
    assert report.total.failures == {"INTERNAL": 1, "RESOURCE_EXHAUSTED": 3}
    busy, broken = report.errors
    assert busy.startswith("RESOURCE_EXHAUSTED: ")
    assert "Server Threadpool Exhausted" in busy
    assert broken.startswith("INTERNAL: ")


def test_a_reply_that_cannot_be_read_is_a_failure():
    with slow_servers() as servers:
        (server,) = servers.values()
        server.replies = [b"no message", messages.PredictResponse().SerializeToString()]
        report = run(TrafficPlan(STABLE, tuple(servers), rate=50.0, seconds=0.4))
    assert (report.total.requests, report.total.failures) == (20, {"DATA_LOSS": 2})
    assert any("does not say which version answered" in error for error in report.errors)


def test_a_replica_that_is_away_fails_its_requests_and_no_others():
    with slow_servers() as servers, slow_servers() as gone:
        targets = (*servers, *gone)
        gone_server = next(iter(gone.values()))
        gone_server.unreachable = True
        report = run(TrafficPlan(STABLE, targets, rate=50.0, seconds=0.4))
    assert (report.total.requests, report.total.failures) == (20, {"UNAVAILABLE": 10})


def test_no_replica_and_no_label_are_errors_before_anything_is_sent():
    with slow_servers() as servers:
        (server,) = servers.values()
        with pytest.raises(NotFound, match="label"):
            run(TrafficPlan(Address(MODEL, label="canary"), tuple(servers), seconds=1.0))
        server.unreachable = True
        with pytest.raises(Unreachable):
            run(TrafficPlan(STABLE, tuple(servers), seconds=1.0))
        assert not any(name == "Predict" for name, _ in server.requests)


def test_a_request_that_does_not_fit_is_never_sent():
    async def drive(plan: TrafficPlan, request: TrafficRequest) -> None:
        async with TrafficDriver(plan, SystemClock()) as driver:
            await driver.connect()
            await driver.run([request], asyncio.Event())

    with slow_servers() as servers:
        plan = TrafficPlan(STABLE, tuple(servers), seconds=1.0)
        wrong_shape = replace(REQUEST, inputs={"x": np.zeros((2, 2), dtype=np.float32)})
        for request, message in ((wrong_shape, "dimensions"), (replace(REQUEST, signature="other"), "not exist")):
            with pytest.raises(InvalidInput, match=message):
                asyncio.run(drive(plan, request))
        (server,) = servers.values()
        assert not any(name == "Predict" for name, _ in server.requests)


@pytest.mark.parametrize(
    ("field", "value"),
    [("rate", 0.0), ("rate", float("nan")), ("rate", 1e9), ("timeout", -1.0), ("concurrency", 0), ("seconds", 0.0)],
)
def test_numbers_out_of_range_are_refused(field, value):
    with pytest.raises(InvalidInput, match="is not usable"):
        TrafficPlan(STABLE, ("127.0.0.1:8500",), **{field: value})
