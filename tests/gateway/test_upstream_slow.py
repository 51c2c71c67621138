"""Replicas that are slow: they get less, and another one is asked beside them."""

from __future__ import annotations

import asyncio
import random

from gateway.model_servers import Counts, Replica, ask, group
from gateway.waiting import until


def test_slow_replica_gets_little() -> None:
    async def run() -> None:
        slow, quick = Replica(), Replica()
        slow.delay = 1.5
        async with group(slow, quick, options={"draw": random.Random(3)}) as upstream:
            for _ in range(5):
                await asyncio.gather(*(ask(upstream) for _ in range(8)))
            # Even shares would be 20 each; how far below depends on how busy the machine is.
            assert len(slow.predicts) * 2 < len(quick.predicts)

    asyncio.run(run())


def test_hedge_answers_for_a_slow_replica() -> None:
    async def run() -> None:
        slow, quick = Replica(), Replica()
        slow.delay = 600.0
        counts = Counts()
        options = {"draw": random.Random(1), "meter": counts}
        async with group(slow, quick, model={"hedging": {"after_ms": 30}}, options=options) as upstream:
            answers = await asyncio.gather(*(ask(upstream) for _ in range(6)))
            assert {answer.replica for answer in answers} == {quick.target}
            assert 1 <= counts.events["hedge"] <= 6
            # What was not needed was called off, at the model server too.
            await until(lambda: upstream.loads() == {slow.target: 0, quick.target: 0})
            await until(lambda: slow.under_way == 0)
            assert slow.predicts == []

    asyncio.run(run())


def test_hedges_are_bounded_by_their_share() -> None:
    async def run() -> None:
        replicas = [Replica() for _ in range(2)]
        for replica in replicas:
            replica.delay = 0.1
        counts = Counts()
        model = {"hedging": {"after_ms": 10, "max_percent": 10}}
        async with group(*replicas, model=model, options={"meter": counts}) as upstream:
            await asyncio.gather(*(ask(upstream) for _ in range(100)))
            # Ten that were saved up, and a tenth of a hundred.
            assert counts.events["hedge"] <= 20

    asyncio.run(run())
