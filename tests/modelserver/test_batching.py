"""The batching session before a session of the test's own: no TensorFlow, no server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfs_deploy.modelserver.batching.parameters import BatchingParameters
from tfs_deploy.modelserver.batching.session import BatchingSession, BatchScheduler
from tfs_deploy.modelserver.status import Code, StatusError


class Runtime:
    """y = 2x row by row, and the sum of each row; remembers what it was asked."""

    def __init__(self, during: Callable[[], None] = lambda: None) -> None:
        self.during = during
        self.runs: list[dict] = []
        self.timeouts: list[int | None] = []
        self.closed = False

    def run(self, feeds, fetches, targets=(), *, timeout_ms=None):
        self.runs.append(dict(feeds))
        self.timeouts.append(timeout_ms)
        self.during()
        x = feeds["x:0"]
        rows = x.reshape(len(x), -1)
        known = {
            "y:0": x + x, "scalar:0": np.float32(1), "bytes:0": b"one", "short:0": x[:1],
            "rows:0": np.array([float(row.astype(float).sum()) for row in rows], np.float64),
        }  # fmt: skip
        return [known[name] for name in fetches]

    def close(self) -> None:
        self.closed = True


class Gate:
    """Holds runs until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self) -> None:
        self.entered.release()
        assert self.open.wait(60)


def session(runtime: Runtime, *, threads: int = 1, **parameters) -> BatchingSession:
    return BatchingSession(runtime, BatchingParameters(**parameters), BatchScheduler(threads))


def ones(rows: int, *more: int, dtype=np.float32):
    return np.ones((rows, *more), dtype)


def error_of(batching: BatchingSession, feeds, fetches=("y:0",), **options) -> tuple[str, str]:
    with pytest.raises(StatusError) as caught:
        batching.run(feeds, list(fetches), **options)
    return caught.value.code.name, caught.value.message


def behind_a_run(batching: BatchingSession, gate: Gate, pool: ThreadPoolExecutor, *feeds):
    """Occupy the one thread, queue `feeds` in this order, let all go; return the futures of `feeds`."""
    first = pool.submit(batching.run, {"x:0": ones(1)}, ["rows:0"])
    assert gate.entered.acquire(timeout=30)
    futures = []
    for index, feed in enumerate(feeds):
        futures.append(pool.submit(batching.run, feed, ["y:0"]))
        waiting = lambda: sum(len(b.tasks) for q in batching._queues.values() for b in q._batches)  # noqa: E731
        deadline = time.monotonic() + 5
        while waiting() < index + 1:
            assert time.monotonic() < deadline
            time.sleep(0.002)
    gate.open.set()
    first.result(30)
    return futures


def test_what_is_refused_before_the_queue():
    batching = session(Runtime(), max_batch_size=4)
    assert error_of(batching, {"x:0": np.float32(1)}) == (
        "INVALID_ARGUMENT", "Batching Run() input tensors must have at least one dimension",
    )  # fmt: skip
    assert error_of(batching, {"x:0": ones(1), "z:0": ones(2)}) == (
        "INVALID_ARGUMENT", "Batching Run() input tensors must have equal 0th-dimension size",
    )  # fmt: skip
    assert error_of(batching, {}) == ("INVALID_ARGUMENT", "Batching Run() must have at least one input tensor")
    assert error_of(batching, {"x:0": ones(5)}) == (
        "INVALID_ARGUMENT", "Task size 5 is larger than maximum input batch size 4",
    )  # fmt: skip
    assert error_of(batching, {"x:0": ones(1)}, targets=["init"])[0] == "PERMISSION_DENIED"


@pytest.mark.parametrize("output", ["scalar:0", "bytes:0"])
def test_an_output_without_dimensions(output):
    assert error_of(session(Runtime()), {"x:0": ones(2)}, [output]) == (
        "FAILED_PRECONDITION", "Batched output tensor has 0 dimensions",
    )  # fmt: skip


def test_an_output_with_other_rows():
    code, message = error_of(session(Runtime()), {"x:0": ones(2)}, ["short:0"])
    assert code == "FAILED_PRECONDITION"
    assert message == (
        "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors"
    )


def test_requests_that_wait_become_one_run_and_each_gets_its_rows():
    gate = Gate()
    runtime = Runtime(gate)
    with ThreadPoolExecutor() as pool:
        futures = behind_a_run(
            session(runtime, max_batch_size=4), gate, pool,
            {"x:0": ones(2, 3)}, {"x:0": 5 * ones(2, 3)}, {"x:0": 7 * ones(3, 3)},
        )  # fmt: skip
        answers = [future.result(30)[0] for future in futures]
    assert [answer.tolist() for answer in answers] == [[[2] * 3] * 2, [[10] * 3] * 2, [[14] * 3] * 3]
    assert [len(run["x:0"]) for run in runtime.runs[1:]] == [4, 3]


def test_one_error_is_the_error_of_the_whole_batch():
    gate = Gate()
    with ThreadPoolExecutor() as pool:
        futures = behind_a_run(
            session(Runtime(gate)), gate, pool, {"x:0": ones(1, 2)}, {"x:0": ones(1, 3)}, {"x:0": ones(1, 2)}
        )
        errors = [future.exception(5) for future in futures]
    assert {error.code for error in errors} == {Code.FAILED_PRECONDITION}
    assert {error.message for error in errors} == {
        "Tensors with name 'x:0' from different tasks have different shapes and padding is turned off.Set "
        "pad_variable_length_inputs to true, or ensure that all tensors with the same namehave equal dimensions "
        "starting with the first dim."
    }


def test_dtypes_are_not_cast_to_one_another():
    gate = Gate()
    with ThreadPoolExecutor() as pool:
        futures = behind_a_run(session(Runtime(gate)), gate, pool, {"x:0": ones(1)}, {"x:0": ones(1, dtype=np.int32)})
        errors = [future.exception(5) for future in futures]
    assert [error.code for error in errors] == [Code.INTERNAL] * 2
    assert "Got float and int32." in errors[0].message


def test_padding_of_variable_lengths_takes_the_first_value():
    gate = Gate()
    runtime = Runtime(gate)
    with ThreadPoolExecutor() as pool:
        futures = behind_a_run(
            session(runtime, pad_variable_length_inputs=True), gate, pool,
            {"x:0": np.array([[3, 4]], np.int64)}, {"x:0": np.array([[5, 6, 7]], np.int64)},
        )  # fmt: skip
        answers = [future.result(30)[0].tolist() for future in futures]
    assert runtime.runs[1]["x:0"].tolist() == [[3, 4, 3], [5, 6, 7]]
    assert answers == [[[6, 8, 6]], [[10, 12, 14]]]  # the padding comes back, as in TF Serving


def test_allowed_sizes_are_filled_with_the_first_row_of_the_last_request():
    runtime = Runtime()
    batching = session(runtime, max_batch_size=4, allowed_batch_sizes=(2, 4))
    x = np.array([[1.0], [2.0], [3.0]])
    assert batching.run({"x:0": x}, ["y:0"])[0].tolist() == [[2.0], [4.0], [6.0]]
    assert runtime.runs[0]["x:0"].tolist() == [[1.0], [2.0], [3.0], [1.0]]


def test_a_full_queue():
    gate = Gate()
    with ThreadPoolExecutor() as pool:
        batching = session(Runtime(gate), max_batch_size=1, max_enqueued_batches=2)
        first = pool.submit(batching.run, {"x:0": ones(1)}, ["y:0"])
        assert gate.entered.acquire(timeout=30)
        waiting = [pool.submit(batching.run, {"x:0": ones(1)}, ["y:0"]) for _ in range(2)]
        (queue,) = batching._queues.values()
        while len(queue._batches) < 2:
            time.sleep(0.002)
        assert error_of(batching, {"x:0": ones(1)}) == (
            "UNAVAILABLE",
            "The batch scheduling queue to which this task was submitted is full; "
            "currently 2 batches enqueued and max_enqueued_batches is 2",
        )
        gate.open.set()
        assert all(future.result(30) for future in (first, *waiting))


def test_the_wait_in_the_queue_counts_against_the_deadline():
    gate = Gate()
    runtime = Runtime(gate)
    with ThreadPoolExecutor() as pool:
        batching = session(runtime)
        first = pool.submit(batching.run, {"x:0": ones(1)}, ["rows:0"])
        assert gate.entered.acquire(timeout=30)
        assert error_of(batching, {"x:0": ones(1)}, timeout_ms=50) == (
            "RESOURCE_EXHAUSTED", "Run() timeout exceeded while waiting in batching queue",
        )  # fmt: skip
        gate.open.set()
        first.result(30)
        batching.close()
    assert len(runtime.runs) == 1, "nobody waits for that batch any more, so it is not run"


def test_a_run_that_has_begun_is_waited_for():
    gate = Gate()
    with ThreadPoolExecutor() as pool:
        batching = session(Runtime(gate))
        running = pool.submit(batching.run, {"x:0": ones(1)}, ["rows:0"], timeout_ms=50)
        assert gate.entered.acquire(timeout=30)
        time.sleep(0.1)
        assert not running.done(), "the runtime has the deadline, and says itself when it is over"
        gate.open.set()
        assert running.result(30)


def test_a_batch_runs_until_its_latest_deadline():
    runtime = Runtime()
    session(runtime).run({"x:0": ones(1)}, ["y:0"], timeout_ms=5000)
    assert 4000 < runtime.timeouts[0] <= 5000


def test_waits_for_company_until_the_timeout():
    batching = session(Runtime(), batch_timeout=0.2, max_batch_size=3)
    begun = time.monotonic()
    batching.run({"x:0": ones(1)}, ["y:0"])
    assert time.monotonic() - begun > 0.15


def test_a_full_batch_does_not_wait():
    batching = session(Runtime(), batch_timeout=3600.0, max_batch_size=3)
    assert batching.run({"x:0": ones(3)}, ["y:0"])[0].tolist() == [2.0] * 3


def test_large_requests_are_split_and_joined_again():
    runtime = Runtime()
    batching = session(
        runtime, threads=3, max_batch_size=10, max_execution_batch_size=3, enable_large_batch_splitting=True
    )
    x = np.arange(10.0).reshape(10, 1)
    assert batching.run({"x:0": x}, ["y:0"])[0].tolist() == (2 * x).tolist()
    assert sorted(len(run["x:0"]) for run in runtime.runs) == [1, 3, 3, 3]
    assert error_of(batching, {"x:0": ones(11)})[0] == "INVALID_ARGUMENT"


def test_a_split_request_that_fails_is_told_once():
    batching = session(Runtime(), max_batch_size=10, max_execution_batch_size=4, enable_large_batch_splitting=True)
    assert error_of(batching, {"x:0": ones(10)}, ["scalar:0"])[0] == "FAILED_PRECONDITION"


def test_close_finishes_what_waits_first():
    runtime = Runtime()
    batching = session(runtime, batch_timeout=60.0)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(batching.run, {"x:0": ones(1)}, ["y:0"])
        while not batching._queues:
            time.sleep(0.002)
        time.sleep(0.05)
        batching.close()
        assert waiting.result(30)[0].tolist() == [2.0]
    assert runtime.closed
    assert error_of(batching, {"x:0": ones(1)})[0] == "UNAVAILABLE"


def test_a_request_without_rows_waits_for_company_as_in_tensorflow():
    batching = session(Runtime())
    assert error_of(batching, {"x:0": ones(0)}, timeout_ms=50)[0] == "RESOURCE_EXHAUSTED"
    with ThreadPoolExecutor() as pool:
        lonely = pool.submit(batching.run, {"x:0": ones(0)}, ["y:0"])
        time.sleep(0.05)
        assert batching.run({"x:0": ones(1)}, ["y:0"])[0].tolist() == [2.0]
        assert lonely.result(30)[0].tolist() == []


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"max_batch_size": 4, "allowed_batch_sizes": (2, 3)},
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 3; expected 4",
        ),
        ({"max_batch_size": 0}, "input_batch_size_limit must be positive; was 0"),
        ({"batch_timeout": -1e-6}, "batch_timeout_micros must be non-negative; was -1"),
    ],
)
def test_parameters_that_fail_the_load(parameters, message):
    with pytest.raises(StatusError) as caught:
        session(Runtime(), **parameters)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, message)


requests = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from([("y:0",), ("rows:0",), ("rows:0", "y:0"), ("y:0", "rows:0")])),
    min_size=1, max_size=12,
)  # fmt: skip
parameters = st.builds(
    lambda top, lower, splitting, timeout, threads: {
        "max_batch_size": top,
        "allowed_batch_sizes": (*sorted(size for size in lower if size < top), top) if lower else (),
        "enable_large_batch_splitting": splitting,
        "max_execution_batch_size": max(top // 2, 1) if splitting else 0,
        "batch_timeout": timeout,
        "max_enqueued_batches": 100,
        "threads": threads,
    },
    st.integers(6, 12), st.sets(st.integers(1, 11), max_size=3), st.booleans(), st.sampled_from([0.0, 0.002]),
    st.integers(1, 3),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(requests, parameters)
def test_answers_equal_those_without_batching(asked, parameters):
    runtime = Runtime()
    batching = session(runtime, **parameters)
    bare = Runtime()
    feeds = [
        {"x:0": np.arange(rows * 2, dtype=np.float64).reshape(rows, 2) + 100 * n} for n, (rows, _) in enumerate(asked)
    ]
    start = threading.Barrier(len(asked))

    def send(index: int):
        start.wait(5)
        return batching.run(feeds[index], list(asked[index][1]), timeout_ms=20_000)

    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(send, range(len(asked))))
    batching.close()
    for feed, (_, fetches), answer in zip(feeds, asked, answers, strict=True):
        expected = bare.run(feed, list(fetches))
        assert [a.tolist() for a in answer] == [e.tolist() for e in expected]
    limit = parameters["max_execution_batch_size"] or parameters["max_batch_size"]
    allowed = parameters["allowed_batch_sizes"]
    for run in runtime.runs:
        assert len(run["x:0"]) <= max(limit, *allowed, 0)
        assert not allowed or len(run["x:0"]) in allowed
