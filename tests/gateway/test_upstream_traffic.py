"""Canary and shadow: the right share, always the same way for the same user, and never at a client's cost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeClock
from gateway.model_servers import Counts, Replica, group, settings, version, x
from gateway.waiting import LONG, until
from tfs_deploy.gateway.problem import Problem, too_late, unavailable, unusable
from tfs_deploy.gateway.upstream.answer import Answer, Arrays
from tfs_deploy.gateway.upstream.model import Traffic, sticky_fraction

VERSIONS = {"stable": 1, "canary": 2, "previous": 3}


class Upstream:
    """Answers with the version of a label; `fails` by label; `delay` seconds before that."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.deadlines: list[float] = []
        self.fails: dict[str, Problem] = {}
        self.delay: dict[str, float] = {}
        self.has_spare_capacity = True

    async def predict(self, inputs: Arrays, *, label: str, deadline: float, request_id: str) -> Answer:
        self.asked.append(label)
        self.deadlines.append(deadline)
        await asyncio.sleep(self.delay.get(label, 0.0))
        if label in self.fails:
            raise self.fails[label]
        return Answer({"y": np.asarray(inputs["x"])}, "m", VERSIONS[label], label, "replica")


def traffic(
    upstream: Upstream, counts: Counts | None = None, seed: int = 5, clock: FakeClock | None = None, **model: Any
) -> Traffic:
    config = settings("127.0.0.1:1", model=model).models["m"]
    return Traffic("m", config, upstream, capacity=upstream, draw=random.Random(seed), meter=counts, clock=clock)


async def ask(ways: Traffic, headers: Mapping[str, str] | None = None, label: str | None = None) -> Answer:
    deadline = asyncio.get_running_loop().time() + LONG
    return await ways.predict(x(1.0), label=label, headers=headers or {}, deadline=deadline, request_id="r")


def test_everything_goes_to_the_models_label_by_default() -> None:
    async def run() -> None:
        upstream = Upstream()
        ways = traffic(upstream)
        assert {(await ask(ways)).label for _ in range(20)} == {"stable"}

    asyncio.run(run())


def test_labels_that_a_client_may_name() -> None:
    async def run() -> None:
        upstream = Upstream()
        ways = traffic(upstream, labels=["previous"], canary={"percent": 100})
        assert (await ask(ways, label="previous")).version == 3
        assert (await ask(ways, label="stable")).version == 1
        for label in ("canary", "", "nobody"):
            with pytest.raises(Problem) as caught:
                await ask(ways, label=label)
            assert caught.value.status == 404
        assert upstream.asked == ["previous", "stable"]

    asyncio.run(run())


@pytest.mark.parametrize("percent", [0, 1, 5, 50, 100])
def test_share_of_the_canary(percent: float) -> None:
    async def run() -> None:
        upstream = Upstream()
        ways = traffic(upstream, canary={"percent": percent, "sticky_header": "X-User"})
        for number in range(4000):
            await ask(ways, {"X-User": f"user-{number}"} if number % 2 else None)
        share = upstream.asked.count("canary") / 4000 * 100
        # Four standard deviations of a binomial of 4000.
        margin = 4 * (percent * (100 - percent) / 4000) ** 0.5
        assert abs(share - percent) <= margin

    asyncio.run(run())


def test_same_user_always_goes_the_same_way() -> None:
    async def run() -> None:
        ways = [traffic(Upstream(), seed=seed, canary={"percent": 30, "sticky_header": "X-User"}) for seed in (1, 2)]
        for number in range(50):
            labels = {(await ask(way, {"X-User": f"u{number}"})).label for way in ways for _ in range(3)}
            assert len(labels) == 1

    asyncio.run(run())


@given(st.text(), st.text())
def test_sticky_share_is_a_function_of_model_and_value(model: str, value: str) -> None:
    assert 0.0 <= sticky_fraction(model, value) < 1.0
    assert sticky_fraction(model, value) == sticky_fraction(model, value)


def test_sticky_share_is_even_and_differs_by_model() -> None:
    shares = [sticky_fraction("m", str(number)) for number in range(10_000)]
    counts, _ = np.histogram(shares, bins=10, range=(0.0, 1.0))
    assert counts.min() > 850
    assert counts.max() < 1150
    # Nobody is always the canary of every model.
    both = sum(sticky_fraction("m", str(n)) < 0.1 and sticky_fraction("other", str(n)) < 0.1 for n in range(10_000))
    assert 50 < both < 160


def test_growing_canary_keeps_whom_it_has() -> None:
    small = {n for n in range(1000) if sticky_fraction("m", str(n)) * 100 < 5}
    large = {n for n in range(1000) if sticky_fraction("m", str(n)) * 100 < 20}
    assert small
    assert small < large


@pytest.mark.parametrize("problem", [unavailable("Down."), too_late("Late."), unusable("Other signature.")])
def test_canary_that_fails_costs_the_client_nothing(problem: Problem, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        upstream, counts = Upstream(), Counts()
        upstream.fails["canary"] = problem
        ways = traffic(upstream, counts, canary={"percent": 100})
        for _ in range(5):
            assert (await ask(ways)).label == "stable"
        assert counts.events["canary_fell_back"] == 5

    asyncio.run(run())
    assert len([record for record in caplog.records if "canary" in record.getMessage()]) == 1


def test_canary_leaves_time_for_the_models_own_label() -> None:
    async def run() -> None:
        upstream = Upstream()
        upstream.fails["canary"] = too_late("Late.")
        clock = FakeClock()
        ways = traffic(upstream, clock=clock, canary={"percent": 100})
        clock.advance(7.0)
        await ways.predict(x(1.0), label=None, headers={}, deadline=12.0, request_id="r")
        assert upstream.deadlines == [9.5, 12.0]

    asyncio.run(run())


def test_label_without_a_version_falls_back_at_once() -> None:
    """Between two rollouts there is no canary; whoever would have been it does not notice."""

    async def run() -> None:
        replicas = [Replica(), Replica()]
        async with group(*replicas, model={"canary": {"percent": 100}}) as upstream:
            config = settings("127.0.0.1:1", model={"canary": {"percent": 100}}).models["m"]
            ways = Traffic("m", config, upstream, capacity=upstream.admission)
            # At once: long before the half of its time that a canary may use.
            loop = asyncio.get_running_loop()
            started = loop.time()
            assert {(await ask(ways)).label for _ in range(10)} == {"stable"}
            assert loop.time() - started < 5 * LONG
            for replica in replicas:
                replica.configure({1: version(), 2: version()}, {"stable": 1, "canary": 2})
            await until(lambda: upstream.signature("canary"))
            assert (await ask(ways)).version == 2

    asyncio.run(run())


# --- shadow -----------------------------------------------------------------------------------------------------------


def test_shadow_is_not_waited_for() -> None:
    async def run() -> None:
        upstream, counts = Upstream(), Counts()
        upstream.delay["canary"] = 1.0
        ways = traffic(upstream, counts, shadow={"percent": 100})
        for _ in range(4):
            assert (await ask(ways)).label == "stable"
            assert not counts.events
        await until(lambda: counts.events == {"shadow_answered": 4})
        assert upstream.asked.count("canary") == 4

    asyncio.run(run())


def test_copies_are_dropped_when_there_are_enough_or_no_room() -> None:
    async def run() -> None:
        upstream, counts = Upstream(), Counts()
        upstream.delay["canary"] = 600.0
        ways = traffic(upstream, counts, shadow={"percent": 100, "parallel": 3})
        for _ in range(10):
            await ask(ways)
        await asyncio.sleep(0)
        assert upstream.asked.count("canary") == 3
        assert counts.events["shadow_dropped"] == 7
        await ways.stop()
        upstream.has_spare_capacity = False
        await ask(ways)
        assert counts.events["shadow_dropped"] == 8

    asyncio.run(run())


def test_shadow_that_fails_is_counted_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        upstream, counts = Upstream(), Counts()
        upstream.fails["canary"] = unavailable("Down.")
        ways = traffic(upstream, counts, shadow={"percent": 100})
        assert (await ask(ways)).label == "stable"
        await until(lambda: counts.events == {"shadow_failed": 1})

    asyncio.run(run())
    assert not caplog.records


def test_what_the_canary_answered_is_not_copied_to_it() -> None:
    async def run() -> None:
        upstream = Upstream()
        ways = traffic(upstream, canary={"percent": 100}, shadow={"percent": 100})
        await ask(ways)
        await asyncio.sleep(0.01)
        assert upstream.asked == ["canary"]

    asyncio.run(run())


def test_share_of_the_shadow() -> None:
    async def run() -> None:
        upstream = Upstream()
        ways = traffic(upstream, shadow={"percent": 10, "parallel": 1000})
        for _ in range(2000):
            await ask(ways)
        await asyncio.sleep(0.05)
        assert 140 <= upstream.asked.count("canary") <= 260

    asyncio.run(run())


def test_stuck_shadow_leaves_its_clients_alone() -> None:
    """The whole way: a shadow that never answers, beside clients that need nearly every turn there is."""

    async def run() -> None:
        replica = Replica({1: version(), 2: version()}, {"stable": 1, "canary": 2})
        replica.delays[2] = 600.0
        model = {"shadow": {"percent": 100, "parallel": 2}}
        async with group(replica, model=model, limits={"concurrency": 4, "queue": 0}) as upstream:
            config = settings("127.0.0.1:1", model=model).models["m"]
            ways = Traffic("m", config, upstream, capacity=upstream.admission, shadow_seconds=600.0)
            for _ in range(20):
                answers = await asyncio.gather(ask(ways), ask(ways))
                assert {answer.label for answer in answers} == {"stable"}
            assert upstream.admission.admitted == 2  # the copies
            await ways.stop()
            assert upstream.admission.admitted == 0

    asyncio.run(run())
