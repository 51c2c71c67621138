"""What a client makes of a model server that answers that it is busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fakes import AsyncFakeClient, FakeClient, FakeClock, FakeModelServer
from serving.grpc_front import serve
from tfs_deploy.errors import (
    Busy,
    Contention,
    DeadlineExceeded,
    InvalidInput,
    ModelServerError,
    NotFound,
    NotServed,
    Permanent,
    SetupError,
    TFSDeployError,
    Transient,
    Unreachable,
)
from tfs_deploy.serving import client, rpc
from tfs_deploy.serving.busy_retry import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, LOST_SECONDS
from tfs_deploy.serving.config import ModelEntry, to_proto

X = np.float32([1, 2])
CONFIG = to_proto([ModelEntry("m", "/m", (1,), {"stable": 1})])
BUSY = [
    ("RESOURCE_EXHAUSTED", "Server Threadpool Exhausted"),
    ("RESOURCE_EXHAUSTED", "Run() timeout exceeded while waiting in batching queue"),
    ("ABORTED", "Try again"),
    ("CANCELLED", "Received RST_STREAM with error code 8"),
    ("UNAVAILABLE", "The batch scheduling queue to which this task was submitted is full"),
]


def error_of(code: str, details: str) -> TFSDeployError:
    return rpc.to_error(code, details, target="h:1", action="Predict on model 'm'", timeout=1.0)


@pytest.mark.parametrize(("code", "details"), BUSY)
def test_a_busy_answer_is_transient_and_keeps_its_code(code: str, details: str) -> None:
    error = error_of(code, details)
    assert isinstance(error, Busy)
    assert isinstance(error, Transient)
    assert error.code == code
    assert details in error.cause
    assert "--grpc_max_threads" in error.remedy


@pytest.mark.parametrize(
    ("code", "details"),
    [
        ("INTERNAL", "Received RST_STREAM with error code 2"),
        ("UNKNOWN", "Stream removed"),
        ("INTERNAL", "recvmsg:Connection reset by peer"),
        ("UNKNOWN", "GOAWAY received"),
        ("UNAVAILABLE", "Socket closed"),
        ("UNAVAILABLE", "failed to connect to all addresses; Connection refused"),
    ],
)
def test_the_end_of_a_connection_is_unreachable(code: str, details: str) -> None:
    assert type(error_of(code, details)) is Unreachable


@pytest.mark.parametrize(
    ("code", "details", "remedy"),
    [
        ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 4)", "message limit"),
        ("RESOURCE_EXHAUSTED", "CLIENT: Sent message larger than max (9 vs. 4)", "message limit"),
        ("INVALID_ARGUMENT", "Task size 256 is larger than maximum input batch size 64", "max_batch_size"),
        ("UNIMPLEMENTED", "", "gRPC port"),
        ("UNIMPLEMENTED", "unknown service tensorflow.serving.PredictionService", "gRPC port"),
        ("UNIMPLEMENTED", "Received http2 header with status: 404", "gRPC port"),
        ("PERMISSION_DENIED", "RBAC: access denied", "proxy"),
        ("UNAUTHENTICATED", "Jwt is missing", "proxy"),
        ("UNKNOWN", "Received http2 header with status: 500", "proxy"),
    ],
)
def test_an_error_of_the_set_up_is_permanent_and_no_models(code: str, details: str, remedy: str) -> None:
    error = error_of(code, details)
    assert isinstance(error, SetupError)
    assert error.code == code
    assert remedy in error.remedy


@pytest.mark.parametrize(
    ("code", "details"),
    [
        ("INVALID_ARGUMENT", "input size does not match signature"),
        ("FAILED_PRECONDITION", "Could not find variable w"),
        ("UNIMPLEMENTED", "The Conv2D op currently only supports the NHWC tensor format on the CPU"),
        ("INTERNAL", "Blas GEMM launch failed"),
        # What a reload answers whose new model cannot be loaded.
        ("UNKNOWN", "1 model(s) did not become available: {{{name: m version: 1} due to error: NOT_FOUND: x}, }"),
    ],
)
def test_other_errors_stay_those_of_a_model(code: str, details: str) -> None:
    error = error_of(code, details)
    assert type(error) is ModelServerError
    assert error.code == code


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        ("NOT_FOUND", "Servable not found for request: Specific(m, 2)", NotServed),
        ("NOT_FOUND", "Could not find version 2 of model m", NotServed),
        ("INVALID_ARGUMENT", "Unrecognized servable version label: stable", NotServed),
        ("NOT_FOUND", "Key not found in lookup table", NotFound),
    ],
)
def test_a_version_that_is_not_served_differs_from_what_a_graph_cannot_find(
    code: str, details: str, kind: type[NotFound]
) -> None:
    assert type(error_of(code, details)) is kind


class Bench:
    """A server with version 1 of `m` under the label `stable`, and a client that has 60 s for a busy server."""

    def __init__(self, kind: type[Any] = FakeClient, busy_timeout: float = 60.0) -> None:
        self.server = FakeModelServer()
        self.server.put("/m", 1)
        FakeClient(self.server).reload(CONFIG, timeout=1)
        self.server.requests.clear()
        self.clock = FakeClock()
        self.client = kind(self.server, clock=self.clock, busy_timeout=busy_timeout)

    def call(self, operation: Callable[[Any], Any]) -> Any:
        result = operation(self.client)
        return asyncio.run(result) if asyncio.iscoroutine(result) else result


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "status": lambda client: client.status("m", timeout=1),
    "metadata": lambda client: client.metadata("m", label="stable", timeout=1),
    "predict": lambda client: client.predict("m", {"x": X}, label="stable", timeout=1),
    "reload": lambda client: client.reload(CONFIG, timeout=1),
}
KINDS = pytest.mark.parametrize("kind", [FakeClient, AsyncFakeClient])
EVERY_OPERATION = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


@KINDS
@EVERY_OPERATION
def test_an_operation_succeeds_on_a_server_that_answers_19_of_20_rpcs_busy(
    kind: type[Any], operation: Callable[[Any], Any]
) -> None:
    bench = Bench(kind)
    expected = bench.call(operation)
    bench.server.busy_share, bench.server.busy_answers = 0.95, BUSY
    for _ in range(10):
        assert repr(bench.call(operation)) == repr(expected)
    assert len(bench.server.requests) > 50


@KINDS
@EVERY_OPERATION
def test_a_server_that_stays_busy_is_asked_until_the_time_is_up(
    kind: type[Any], operation: Callable[[Any], Any]
) -> None:
    bench = Bench(kind)
    bench.server.busy_share = 1.0
    with pytest.raises(Busy, match=r"Server Threadpool Exhausted \(asked (\d+) times in \d+\.\d s\)\.") as caught:
        bench.call(operation)
    assert f"asked {len(bench.server.requests)} times" in caught.value.cause
    assert caught.value.code == "RESOURCE_EXHAUSTED"
    assert 60 - LONGEST_PAUSE_SECONDS <= sum(bench.clock.slept) <= 60


@KINDS
def test_pauses_grow_from_20_ms_to_a_quarter_of_a_second_and_vary(kind: type[Any]) -> None:
    bench = Bench(kind)
    bench.server.busy_share = 1.0
    with pytest.raises(Busy):
        bench.call(OPERATIONS["status"])
    slept = bench.clock.slept
    assert FIRST_PAUSE_SECONDS / 2 <= slept[0] <= FIRST_PAUSE_SECONDS
    assert all(LONGEST_PAUSE_SECONDS / 2 <= pause <= LONGEST_PAUSE_SECONDS for pause in slept[10:])
    assert len(set(slept[10:])) > 10


@KINDS
@EVERY_OPERATION
def test_without_a_busy_timeout_an_operation_is_tried_once(kind: type[Any], operation: Callable[[Any], Any]) -> None:
    bench = Bench(kind, busy_timeout=0.0)
    bench.server.busy_share = 1.0
    with pytest.raises(Busy, match=r"Server Threadpool Exhausted\. Try"):
        bench.call(operation)
    assert len(bench.server.requests) == 1
    assert bench.clock.slept == []


@KINDS
def test_a_caller_that_polls_turns_the_repetition_off(kind: type[Any]) -> None:
    bench = Bench(kind)
    bench.server.busy_share = 1.0
    with pytest.raises(Busy):
        bench.call(lambda client: client.status("m", timeout=1, busy_timeout=0.0))
    assert len(bench.server.requests) == 1


@KINDS
@pytest.mark.parametrize(
    ("code", "kind_of_error"),
    [("DEADLINE_EXCEEDED", DeadlineExceeded), ("INVALID_ARGUMENT", Permanent)],
)
def test_other_errors_are_not_repeated(kind: type[Any], code: str, kind_of_error: type[TFSDeployError]) -> None:
    bench = Bench(kind)
    bench.server.fail_next("HandleReloadConfigRequest", code)
    with pytest.raises(kind_of_error):
        bench.call(OPERATIONS["reload"])
    assert len(bench.server.requests) == 1


@KINDS
@EVERY_OPERATION
@pytest.mark.parametrize("details", ["Socket closed", "failed to connect to all addresses; Connection refused"])
def test_a_lost_connection_is_repeated_for_a_short_time(kind: type[Any], operation: Any, details: str) -> None:
    bench = Bench(kind)
    for method in ("GetModelStatus", "GetModelMetadata", "Predict", "HandleReloadConfigRequest"):
        bench.server.fail_next(method, "UNAVAILABLE", details, times=3)
    bench.call(operation)
    assert 0 < sum(bench.clock.slept) < 2 * LOST_SECONDS
    bench.server.unreachable = True
    started = bench.clock.monotonic()
    with pytest.raises(Unreachable, match=r"asked \d+ times in"):
        bench.call(operation)
    assert bench.clock.monotonic() - started <= LOST_SECONDS


@KINDS
def test_a_read_that_a_proxy_ends_before_its_deadline_is_repeated(kind: type[Any]) -> None:
    bench = Bench(kind)
    bench.server.fail_next("GetModelStatus", "DEADLINE_EXCEEDED", "upstream request timeout", times=2)
    bench.call(lambda client: client.status("m", timeout=30))
    assert len(bench.server.requests) == 3


@KINDS
def test_a_reload_that_times_out_after_busy_answers_is_not_repeated(kind: type[Any]) -> None:
    bench = Bench(kind)
    bench.server.fail_next("HandleReloadConfigRequest", "RESOURCE_EXHAUSTED", times=3)
    bench.server.fail_next("HandleReloadConfigRequest", "DEADLINE_EXCEEDED")
    with pytest.raises(DeadlineExceeded, match="in force is unknown"):
        bench.call(OPERATIONS["reload"])
    assert len(bench.server.requests) == 4


@KINDS
def test_nothing_is_sent_once_the_check_before_an_attempt_fails(kind: type[Any]) -> None:
    bench = Bench(kind)
    bench.server.busy_share = 1.0

    def require_first_second() -> None:
        if bench.clock.monotonic() > 1.0:
            raise Contention("The lease ran out.", "Run the step again.")

    with pytest.raises(Contention):
        bench.call(lambda client: client.reload(CONFIG, timeout=1, before_attempt=require_first_second))
    assert sum(bench.clock.slept) < 1.0 + 2 * LONGEST_PAUSE_SECONDS


def test_a_client_that_is_closed_during_a_pause_sends_nothing_more() -> None:
    bench = Bench()
    bench.server.busy_share = 1.0
    bench.client = FakeClient(bench.server, clock=FakeClock(on_sleep=lambda: bench.client.close()), busy_timeout=60.0)
    with pytest.raises(InvalidInput, match="closed"):
        bench.call(OPERATIONS["status"])
    assert len(bench.server.requests) == 1


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), True, "1"])
def test_an_unusable_busy_timeout_is_refused(seconds: Any) -> None:
    with pytest.raises(InvalidInput, match="busy timeout"):
        client.connect("127.0.0.1:8500", busy_timeout=seconds)


def test_the_clients_on_sockets_repeat_too() -> None:
    server = FakeModelServer()
    server.busy_share, server.busy_answers = 0.8, BUSY

    async def ask(target: str) -> Any:
        async with client.connect_aio(target, busy_timeout=60.0) as connected:
            return [await connected.status("m", timeout=20) for _ in range(5)]

    with serve(server) as target:
        with client.connect(target, busy_timeout=60.0) as connected:
            assert [connected.status("m", timeout=20) for _ in range(5)] == [()] * 5
        assert asyncio.run(ask(target)) == [()] * 5
    assert len(server.requests) > 10
