"""Micro-batching: fewer calls, the same answers, and nobody's mistake is another's."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from fakes import FakeRpcError
from gateway.model_servers import Counts, Replica, ask, group, version, x
from gateway.waiting import LONG, until
from tfs_deploy.clock import SystemClock
from tfs_deploy.gateway.config import MicroBatching
from tfs_deploy.gateway.problem import Problem
from tfs_deploy.gateway.upstream.answer import Answer, Arrays, NoMeter
from tfs_deploy.gateway.upstream.micro_batching import MicroBatcher, batch_key, join, split

BATCHING = {"micro_batching": {"max_rows": 16, "wait_ms": 20}}


def rows_of(replica: Replica) -> list[int]:
    """Return how many rows each Predict had."""
    return [message.inputs["x"].tensor_shape.dim[0].size for message in replica.predicts]


def test_requests_that_come_together_go_together() -> None:
    async def run() -> None:
        replica = Replica()
        async with group(replica, model=BATCHING) as upstream:
            answers = await asyncio.gather(*(ask(upstream, x(float(number))) for number in range(40)))
            assert [answer.outputs["y"].tolist() for answer in answers] == [[float(number)] for number in range(40)]
            assert len(replica.predicts) <= 4
            assert max(rows_of(replica)) <= 16
            assert sum(rows_of(replica)) == 40

    asyncio.run(run())


def test_requests_of_several_rows_do_not_go_over_the_most() -> None:
    async def run() -> None:
        replica = Replica()
        async with group(replica, model=BATCHING) as upstream:
            sizes = [10, 10, 5, 16, 40, 1]
            answers = await asyncio.gather(*(ask(upstream, x(*range(size))) for size in sizes))
            assert [answer.outputs["y"].shape for answer in answers] == [(size,) for size in sizes]
            assert sorted(rows_of(replica)) == [10, 16, 16, 40]  # 16 and 40 alone, for they are enough

    asyncio.run(run())


def test_requests_within_the_wait_go_together_while_one_is_under_way() -> None:
    async def run() -> None:
        replica = Replica()
        replica.held = asyncio.Event()
        async with group(replica, model={"micro_batching": {"max_rows": 16, "wait_ms": 60_000}}) as upstream:
            tasks = [asyncio.create_task(ask(upstream))]
            await until(lambda: replica.under_way == 1)
            for _ in range(4):
                tasks.append(asyncio.create_task(ask(upstream)))
                await asyncio.sleep(0.01)
            assert replica.under_way == 1  # they wait, for less than the minute that they may
            replica.held.set()
            await asyncio.gather(*tasks)
            assert rows_of(replica) == [1, 4]

    asyncio.run(run())


def test_single_request_waits_only_if_told_to() -> None:
    async def run() -> None:
        # Whoever waits here does so for longer than the test.
        async with group(Replica(), model={"micro_batching": {"wait_ms": 60_000, "eager": True}}) as upstream:
            await ask(upstream, seconds=LONG / 2)
        async with group(Replica(), model={"micro_batching": {"wait_ms": 150, "eager": False}}) as upstream:
            loop = asyncio.get_running_loop()
            started = loop.time()
            await ask(upstream)
            assert loop.time() - started >= 0.149

    asyncio.run(run())


def test_different_shapes_and_labels_are_not_joined() -> None:
    async def run() -> None:
        versions = {1: version((None, None)), 2: version((None, None))}
        replica = Replica(versions, {"stable": 1, "blue": 2})
        async with group(replica, model={**BATCHING, "labels": ["blue"]}) as upstream:
            requests = [
                ({"x": np.full((2, width), width, np.float32)}, label)
                for width in (3, 5)
                for label in ("stable", "blue")
            ] * 2
            answers = await asyncio.gather(*(ask(upstream, inputs, label=label) for inputs, label in requests))
            for (inputs, label), answer in zip(requests, answers, strict=True):
                np.testing.assert_array_equal(answer.outputs["y"], inputs["x"])
                assert (answer.version, answer.label) == ({"stable": 1, "blue": 2}[label], label)
            assert rows_of(replica) == [4, 4, 4, 4]

    asyncio.run(run())


def test_a_batch_that_another_version_answers_is_not_split_by_chance() -> None:
    """The label moves to a version whose output is no batch, and has as many elements as the batch has rows."""

    async def run() -> None:
        replica = Replica({1: version((None,))}, {"stable": 1})
        seldom = {"interval_seconds": 600.0, "max_age_seconds": 600.0}
        async with group(replica, model=BATCHING, health=seldom) as upstream:
            total = version((None,), function=lambda given: {"y": np.full(4, given["x"].sum(), np.float32)}, gives=(4,))
            replica.configure({2: total}, {"stable": 2})
            answers = await asyncio.gather(*(ask(upstream, x(float(number))) for number in range(4)))
            assert [answer.version for answer in answers] == [2] * 4
            assert [answer.outputs["y"].tolist() for answer in answers] == [[float(number)] * 4 for number in range(4)]

    asyncio.run(run())


def test_a_batch_under_way_while_the_label_moves_is_split_as_before() -> None:
    async def run() -> None:
        versions = {1: version((None,)), 2: version((4,))}
        replica = Replica(versions, {"stable": 1})
        replica.held = asyncio.Event()
        async with group(replica, model=BATCHING) as upstream:
            asked = [asyncio.create_task(ask(upstream, x(float(number)))) for number in range(4)]
            await until(lambda: replica.under_way == 1)
            replica.configure(versions, {"stable": 2})
            await until(lambda: (upstream.signature() or (0,))[0] == 2)
            replica.held.set()
            answers = await asyncio.gather(*asked)
            assert [answer.outputs["y"].tolist() for answer in answers] == [[float(number)] for number in range(4)]
            assert rows_of(replica) == [4]

    asyncio.run(run())


def test_one_bad_request_fails_alone() -> None:
    def picky(inputs: Any) -> Any:
        if (inputs["x"] < 0).any():
            raise FakeRpcError("INVALID_ARGUMENT", "negative")
        return {"y": inputs["x"] * 2}

    async def run() -> None:
        replica = Replica({1: version(function=picky)})
        counts = Counts()
        async with group(replica, model=BATCHING, options={"meter": counts}) as upstream:
            values = [1.0, -2.0, 3.0, 4.0]
            outcomes = await asyncio.gather(*(ask(upstream, x(value)) for value in values), return_exceptions=True)
            assert isinstance(outcomes[1], Problem)
            assert outcomes[1].status == 422
            assert [outcomes[at].outputs["y"].tolist() for at in (0, 2, 3)] == [[2.0], [6.0], [8.0]]  # type: ignore[union-attr]
            assert counts.events["batch_taken_apart"] == 1
            assert rows_of(replica) == [4, 1, 1, 1, 1]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("shape", "gives", "inputs"),
    [
        ((1, None, None, 3), (1, None, None, 5), np.zeros((1, 8, 4, 3), np.float32)),  # a fixed batch of one
        ((None,), (), np.zeros(1, np.float32)),  # one number for all rows
        (None, None, np.zeros((1, 2), np.float32)),  # anything
    ],
)
def test_models_that_do_not_answer_row_by_row_get_requests_one_by_one(shape: Any, gives: Any, inputs: Any) -> None:
    async def run() -> None:
        def function(arrays: Any) -> Any:
            given = arrays["x"]
            if given.ndim == 4:
                return {"y": np.ones((*(given.shape[0], given.shape[1] // 4, given.shape[2] // 4), 5), np.float32)}
            return {"y": given.sum() if gives == () else given}

        replica = Replica({1: version(shape, function=function, gives=gives)})
        async with group(replica, model={**BATCHING, "ranks": {"x": "any"}}) as upstream:
            answers = await asyncio.gather(*(ask(upstream, {"x": inputs}) for _ in range(5)))
            assert len(replica.predicts) == 5
            expected = (1, 2, 1, 5) if inputs.ndim == 4 else (() if gives == () else inputs.shape)
            assert {answer.outputs["y"].shape for answer in answers} == {expected}

    asyncio.run(run())


def test_answer_with_other_rows_than_promised_is_not_split() -> None:
    """The signature says one row each, the model gives one for all: found out once, remembered for the version."""

    async def run() -> None:
        replica = Replica({1: version(function=lambda arrays: {"y": arrays["x"].sum(keepdims=True)})})
        async with group(replica, model=BATCHING) as upstream:
            for _ in range(2):
                answers = await asyncio.gather(*(ask(upstream, x(float(number))) for number in (1, 2, 3)))
                assert [answer.outputs["y"].tolist() for answer in answers] == [[1.0], [2.0], [3.0]]
            assert rows_of(replica) == [3, 1, 1, 1, 1, 1, 1]

    asyncio.run(run())


def test_short_deadline_is_its_own() -> None:
    async def run() -> None:
        replica = Replica()
        replica.held = asyncio.Event()
        async with group(replica, model=BATCHING) as upstream:
            short, long = (asyncio.create_task(ask(upstream, x(2.0), seconds=seconds)) for seconds in (0.2, LONG))
            with pytest.raises(Problem) as caught:
                await short
            assert caught.value.status == 504
            replica.held.set()
            assert (await long).outputs["y"].tolist() == [2.0]

    asyncio.run(run())


def test_client_that_leaves_takes_nobody_along() -> None:
    async def run() -> None:
        replica = Replica()
        replica.held = asyncio.Event()
        async with group(replica, model=BATCHING) as upstream:
            leaves, stays = (asyncio.create_task(ask(upstream, x(value))) for value in (1.0, 2.0))
            await until(lambda: replica.under_way == 1)
            leaves.cancel()
            replica.held.set()
            assert (await stays).outputs["y"].tolist() == [2.0]
            with pytest.raises(asyncio.CancelledError):
                await leaves

    asyncio.run(run())


def test_nothing_is_kept_of_kinds_that_are_gone() -> None:
    """Shapes are chosen by clients: remembering them would let strangers fill the memory."""

    async def run() -> None:
        async def send(arrays: Arrays, *, label: str, deadline: float, request_id: str) -> Answer:
            await asyncio.sleep(0.01)
            return Answer(dict(arrays), "m", 1, label, "replica")

        batcher = MicroBatcher(
            "m",
            MicroBatching(eager=False, wait_ms=20),
            send,
            lambda arrays, label: (1, 1),
            lambda version, label: True,
            clock=SystemClock(),
            meter=NoMeter(),
        )
        deadline = asyncio.get_running_loop().time() + LONG
        tasks = [
            asyncio.create_task(
                batcher.predict({"x": np.zeros((1, size))}, label="stable", deadline=deadline, request_id="r")
            )
            for size in range(40)
        ]
        await asyncio.sleep(0)
        assert batcher.kinds == 40
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: batcher.kinds == 0)

    asyncio.run(run())


def test_dead_replica_is_not_seen_by_a_batch() -> None:
    async def run() -> None:
        replicas = [Replica(), Replica()]
        for replica in replicas:
            replica.delay = 0.02
        async with group(*replicas, model=BATCHING, retries={"seconds": LONG, "lost": 3}) as upstream:
            tasks = []
            for number in range(200):
                tasks.append(asyncio.create_task(ask(upstream, x(float(number)))))
                await asyncio.sleep(0.002)
                if number == 50:
                    await replicas[0].stop()
            answers = await asyncio.gather(*tasks)
            assert [answer.outputs["y"].tolist() for answer in answers] == [[float(number)] for number in range(200)]

    asyncio.run(run())


ROWS = st.lists(st.integers(1, 4), min_size=1, max_size=6)
TAILS = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
DTYPES = st.sampled_from([np.float32, np.int64, np.bool_, np.uint8, object])


@given(data=st.data(), counts=ROWS, tail=st.one_of(st.just(()), TAILS), dtype=DTYPES)
def test_what_is_joined_comes_apart_again(data: Any, counts: list[int], tail: tuple[int, ...], dtype: Any) -> None:
    elements = st.binary(max_size=4) if dtype is object else None
    requests = [
        {
            name: data.draw(arrays_of.arrays(dtype, (count, *tail), elements=elements, fill=st.nothing()))
            for name in ("a", "b")
        }
        for count in counts
    ]
    assert len({batch_key(request) for request in requests}) == 1
    joined = join(requests)
    assert {array.shape for array in joined.values()} == {(sum(counts), *tail)}
    parts = split(joined, counts)
    assert parts is not None
    for request, part in zip(requests, parts, strict=True):
        for name in request:
            assert part[name].dtype == request[name].dtype
            assert part[name].tobytes() == request[name].tobytes() if dtype is not object else True
            assert part[name].shape == request[name].shape
            assert part[name].tolist() == request[name].tolist() or part[name].dtype == np.float32


@given(
    counts=ROWS,
    shapes=st.dictionaries(
        st.sampled_from("abc"), arrays_of.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=9), min_size=1
    ),
)
def test_only_as_many_rows_as_were_sent_are_split(counts: list[int], shapes: dict[str, tuple[int, ...]]) -> None:
    outputs = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    fits = all(shape[:1] == (sum(counts),) for shape in shapes.values())
    assert (split(outputs, counts) is not None) == fits


@given(tails=st.lists(TAILS, min_size=2, max_size=2), dtypes=st.lists(DTYPES, min_size=2, max_size=2))
def test_kinds_differ_in_any_dimension_but_the_first_and_in_dtype(tails: Any, dtypes: Any) -> None:
    one, other = (
        {"a": np.zeros((rows, *tail), dtype)} for rows, tail, dtype in zip((1, 2), tails, dtypes, strict=True)
    )
    assert (batch_key(one) == batch_key(other)) == (tails[0] == tails[1] and dtypes[0] == dtypes[1])
