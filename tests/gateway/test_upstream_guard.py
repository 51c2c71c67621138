"""Nothing reaches a model server that does not fit the version that answers it, not even while labels move."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from fakes import FakeClock, FakeVersion
from gateway.model_servers import Replica, ask, group, version, x
from gateway.waiting import LONG, until
from tfs_deploy.errors import Unreachable
from tfs_deploy.gateway.problem import Problem
from tfs_deploy.gateway.upstream.model import Upstream
from tfs_deploy.serving.signature import Signature, TensorSpec

IMAGES = (None, 2, 2, 1)
# Nothing is asked by the clock: only a request makes the gateway look.
SELDOM = {"interval_seconds": 600.0, "max_age_seconds": 600.0}


def images(rows: int = 1, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    return {"x": np.zeros((rows, 2, 2, 1), dtype)}


def live(upstream: Upstream) -> int | None:
    """Return the version that `stable` means as far as the gateway knows."""
    known = upstream.signature()
    return known and known[0]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"x": np.zeros((1, 7), np.float32)}, "must have 4 dimensions"),
        ({"x": np.zeros((1, 2, 2, 1, 1), np.float32)}, "must have 4 dimensions"),
        ({"x": np.float32(1.0).reshape(())}, "must have 4 dimensions"),
        ({"x": np.zeros((1, 2, 3, 1), np.float32)}, "dimension 2 is 3 instead of 2"),
        ({"x": np.zeros((1, 2, 2, 1), np.float64)}, "must be DT_FLOAT, but DT_DOUBLE"),
        ({"x": np.zeros((0, 2, 2, 1), np.float32)}, "is empty"),
        ({"x": np.full((1, 2, 2, 1), "a", object)}, "must be DT_FLOAT, but DT_STRING"),
        ({"x": np.zeros((1, 2, 2, 1), "datetime64[s]")}, "datetime64"),
        ({"q": np.zeros((1, 2, 2, 1), np.float32)}, "lacks 'x' and adds 'q'"),
        ({}, "lacks 'x'"),
        ({"x": np.zeros(1, np.float32), "y": np.zeros(1, np.float32)}, "adds 'y'"),
    ],
)
@pytest.mark.parametrize("batching", [False, True])
def test_misfits_are_refused_before_anything_is_sent(inputs: Any, says: str, batching: bool) -> None:
    async def run() -> None:
        replica = Replica({1: version(IMAGES)})
        model = {"micro_batching": {}} if batching else {}
        async with group(replica, model=model) as upstream:
            deadline = asyncio.get_running_loop().time() + LONG
            with pytest.raises(Problem) as caught:
                await upstream.predict(inputs, label="stable", deadline=deadline, request_id="r")
            assert caught.value.status == 422
            assert says in caught.value.detail
            assert replica.predicts == []
            assert (await ask(upstream, images(3))).outputs["y"].shape == (3, 2, 2, 1)

    asyncio.run(run())


def test_text_that_cannot_be_sent_is_the_clients_fault() -> None:
    async def run() -> None:
        replica = Replica({1: version((None,), dtype="DT_STRING")})
        async with group(replica) as upstream:
            with pytest.raises(Problem) as caught:
                await ask(upstream, {"x": np.array([object()], object)})
            assert caught.value.status == 422
            assert replica.predicts == []
            assert (await ask(upstream, {"x": np.array([b"a\0"], object)})).outputs["y"].tolist() == [b"a\0"]

    asyncio.run(run())


def test_version_that_was_checked_is_the_version_that_answers() -> None:
    """The label moves after the check: the request must not reach a version with another signature."""

    async def run() -> None:
        versions = {1: version((None,)), 2: version(IMAGES)}
        replica = Replica(versions, {"stable": 1})
        async with group(replica) as upstream:
            await ask(upstream)
            replica.held = asyncio.Event()  # the label moves while the request is on its way to the model
            old = asyncio.create_task(ask(upstream, x(1.0)))
            await until(lambda: replica.under_way == 1)
            replica.fake.labels["m"]["stable"] = 2
            replica.held.set()
            assert (await old).version == 1
            # What the gateway knew was right a moment ago; it asked for the version by its number.
            assert {message.model_spec.WhichOneof("version_choice") for message in replica.predicts} == {"version"}
            await until(lambda: live(upstream) == 2)
            before = len(replica.predicts)
            with pytest.raises(Problem, match="version 2 must have 4 dimensions"):
                await ask(upstream, x(1.0))
            assert len(replica.predicts) == before
            assert (await ask(upstream, images())).version == 2

    asyncio.run(run())


def test_move_of_the_label_is_seen_within_the_interval() -> None:
    async def run() -> None:
        replica = Replica({1: version(), 2: version()}, {"stable": 1})
        async with group(replica) as upstream:
            assert (await ask(upstream)).version == 1
            replica.fake.labels["m"]["stable"] = 2
            await until(lambda: live(upstream) == 2)
            assert (await ask(upstream)).version == 2

    asyncio.run(run())


def test_input_for_the_new_version_makes_the_gateway_look_at_once() -> None:
    async def run() -> None:
        replica = Replica({1: version((None,)), 2: version(IMAGES)}, {"stable": 1})
        clock = FakeClock()  # it stands still: whatever the gateway knows stays as young as it is
        async with group(replica, health=SELDOM, options={"clock": clock}) as upstream:
            await ask(upstream)
            clock.advance(0.1)
            replica.fake.labels["m"]["stable"] = 2
            assert (await ask(upstream, images())).version == 2
            with pytest.raises(Problem, match="version 2"):
                await ask(upstream, x(1.0))
            # Nothing is asked again for a misfit that follows upon a look.
            asked = len(replica.questions)
            for _ in range(60):
                with pytest.raises(Problem, match="version 2"):
                    await ask(upstream)
            assert len(replica.questions) <= asked + 1
            clock.advance(0.1)
            with pytest.raises(Problem, match="version 2"):
                await ask(upstream)
            assert len(replica.questions) <= asked + 2

    asyncio.run(run())


def test_version_that_is_gone_is_looked_up_once_more() -> None:
    async def run() -> None:
        replica = Replica({1: version((None,)), 2: version((None,))}, {"stable": 1})
        async with group(replica, health=SELDOM) as upstream:
            assert (await ask(upstream)).version == 1
            replica.configure({2: version()}, {"stable": 2})
            answer = await ask(upstream)
            assert (answer.version, answer.attempts) == (2, 1)

    asyncio.run(run())


def test_version_that_is_gone_lets_no_misfit_through_to_the_next() -> None:
    async def run() -> None:
        replica = Replica({1: version((None,)), 2: version(IMAGES)}, {"stable": 1})
        async with group(replica, health=SELDOM) as upstream:
            await ask(upstream)
            replica.configure({2: version(IMAGES)}, {"stable": 2})
            with pytest.raises(Problem, match="version 2 must have 4 dimensions"):
                await ask(upstream)
            assert [message.model_spec.version.value for message in replica.predicts] == [1, 1]

    asyncio.run(run())


def test_meaning_of_a_label_that_is_too_old_is_not_used() -> None:
    """A version that was stable long ago may have been rolled back: better no answer than that one."""

    async def run() -> None:
        replica = Replica()
        health = {"timeout_seconds": 0.3, "max_age_seconds": 0.5}
        async with group(replica, health=health, retries={"seconds": 0.5}) as upstream:
            await ask(upstream)
            replica.secretive = True
            await until(lambda: live(upstream) is None)
            before = len(replica.predicts)
            with pytest.raises(Problem) as caught:
                await ask(upstream, seconds=1.0)
            assert caught.value.status in (503, 504)
            assert len(replica.predicts) == before

    asyncio.run(run())


def test_label_of_each_replica_is_its_own() -> None:
    """A promotion moves one replica after the other: none is asked for a version that it does not have."""

    async def run() -> None:
        moved = Replica({1: version(), 2: version()}, {"stable": 2})
        not_yet = Replica({1: version()}, {"stable": 1})
        async with group(moved, not_yet) as upstream:
            answers = await asyncio.gather(*(ask(upstream) for _ in range(30)))
            assert {(answer.replica, answer.version) for answer in answers} == {(moved.target, 2), (not_yet.target, 1)}
            assert {answer.attempts for answer in answers} == {1}

    asyncio.run(run())


def test_replica_without_the_label_is_passed_over() -> None:
    async def run() -> None:
        with_label, without = Replica(), Replica({1: version()}, {"other": 1})
        async with group(with_label, without) as upstream:
            answers = await asyncio.gather(*(ask(upstream) for _ in range(20)))
            assert {answer.replica for answer in answers} == {with_label.target}
            assert without.predicts == []

    asyncio.run(run())


def test_label_that_is_nowhere() -> None:
    async def run() -> None:
        replicas = [Replica(), Replica()]
        async with group(*replicas, model={"labels": ["blue"]}, retries={"seconds": 0.2}) as upstream:
            with pytest.raises(Problem) as asked_for:
                await ask(upstream, label="blue")
            assert asked_for.value.status == 404
            for replica in replicas:
                replica.fake.labels["m"].clear()
            await until(lambda: live(upstream) is None)
            with pytest.raises(Problem, match="no version under the label 'stable'") as configured:
                await ask(upstream)
            assert configured.value.status == 503
            assert not await upstream.ready()
            assert [replica.predicts for replica in replicas] == [[], []]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("ranks", "given", "status", "says"),
    [
        ({}, 2, 502, "leaves the rank of its input 'x' open"),
        ({"other": 2}, 2, 502, "leaves the rank of its input 'x' open"),
        ({"x": 4}, 2, 422, "must have 4 dimensions, but the array has 2"),
        ({"x": 2}, 2, None, ""),
        ({"x": "any"}, 2, None, ""),
    ],
)
def test_input_of_unknown_rank_is_sent_only_if_the_configuration_says_its_rank(
    ranks: Any, given: int, status: int | None, says: str
) -> None:
    async def run() -> None:
        replica = Replica({1: version(None)})
        async with group(replica, model={"ranks": ranks}) as upstream:
            inputs = {"x": np.zeros((1,) * given, np.float32)}
            if status is None:
                assert (await ask(upstream, inputs)).outputs["y"].ndim == given
                return
            with pytest.raises(Problem) as caught:
                await ask(upstream, inputs)
            assert caught.value.status == status
            assert says in caught.value.detail
            assert replica.predicts == []

    asyncio.run(run())


def test_rank_that_the_signature_says_is_not_overruled() -> None:
    async def run() -> None:
        replica = Replica({1: version(IMAGES)})
        async with group(replica, model={"ranks": {"x": "any"}}) as upstream:
            with pytest.raises(Problem, match="must have 4 dimensions"):
                await ask(upstream, x(1.0))
            assert replica.predicts == []

    asyncio.run(run())


def test_signature_and_outputs_that_the_version_lacks_are_the_gateways_fault() -> None:
    async def run() -> None:
        for model, says in (
            ({"signature": "embed"}, "has no signature 'embed'"),
            ({"outputs": ["z"]}, "has no output 'z'"),
        ):
            replica = Replica()
            async with group(replica, model=model) as upstream:
                with pytest.raises(Problem, match=says) as caught:
                    await ask(upstream)
                assert caught.value.status == 502
                assert replica.predicts == []

    asyncio.run(run())


def test_only_wanted_outputs_are_asked_for() -> None:
    async def run() -> None:
        spec = TensorSpec("DT_FLOAT", (None,), "a:0")
        both = Signature({"x": spec}, {"y": spec, "z": spec}, "tensorflow/serving/predict")
        content = FakeVersion(lambda arrays: {"y": arrays["x"], "z": arrays["x"]}, {"serving_default": both})
        async with group(Replica({1: content}), model={"outputs": ["z"]}) as upstream:
            assert set((await ask(upstream)).outputs) == {"z"}

    asyncio.run(run())


def test_the_version_that_is_told_does_not_come_and_go_with_the_questions() -> None:
    """A model that nobody asks is looked at seldom, and what was seen is too old for a request then."""

    async def run() -> None:
        clock = FakeClock()
        replica = Replica()
        async with group(replica, options={"clock": clock}, health={**SELDOM, "max_age_seconds": 600.0}) as upstream:
            assert (live(upstream), upstream.live_version()) == (1, 1)
            clock.advance(601.0)
            assert (live(upstream), upstream.live_version()) == (None, 1)
            for seen in upstream._watch.replicas:
                seen.record_failure(Unreachable("Gone.", "Wait."))
            assert upstream.live_version() is None

    asyncio.run(run())
