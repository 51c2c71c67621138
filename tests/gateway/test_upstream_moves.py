"""Labels that move and versions that come and go at every step of a request: nothing reaches a version it does not fit.

The world changes before every answer that a model server gives, so also between the gateway's look at the signature
and the arrival of the request that was checked against it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from gateway.model_servers import Replica, ask, group, version
from gateway.waiting import ended
from tfs_deploy.gateway.problem import Problem
from tfs_deploy.gateway.upstream.answer import Answer

SHAPES: dict[int, tuple[int | None, ...]] = {1: (None,), 2: (None, 2, 2, 1), 3: (None, 3), 4: (None, 2, 2, 1)}
REQUESTS = 300


class Restless:
    """Changes what one replica serves, before it answers."""

    def __init__(self, replica: Replica, draw: random.Random, *, labels: bool) -> None:
        self.moves = 0
        self._replica = replica
        self._draw = draw
        self._labels = labels
        replica.before_answer = self.move

    def move(self) -> None:
        if self._draw.random() < 0.5:
            return
        self.moves += 1
        served = self._draw.sample(sorted(SHAPES), self._draw.randint(1, 3))
        labels = {"stable": self._draw.choice(served)} if self._labels else {}
        self._replica.configure({number: version(SHAPES[number]) for number in served}, labels)


def request(draw: random.Random) -> dict[str, Any]:
    shape = SHAPES[draw.choice(sorted(SHAPES))]
    return {"x": np.zeros([size or draw.randint(1, 3) for size in shape], np.float32)}


@pytest.mark.parametrize("mode", ["labels", "latest"])
@pytest.mark.parametrize("batching", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_reaches_a_version_that_it_does_not_fit(mode: str, batching: bool, seed: int) -> None:
    draw = random.Random(seed)
    outcomes: Counter[str] = Counter()

    async def run() -> None:
        replicas = [Replica({1: version(SHAPES[1])}, {"stable": 1} if mode == "labels" else {}) for _ in range(2)]
        worlds = [Restless(replica, draw, labels=mode == "labels") for replica in replicas]
        model = {"mode": mode, **({"micro_batching": {"wait_ms": 1}} if batching else {})}
        label = "stable" if mode == "labels" else ""
        turn = asyncio.Semaphore(8)

        async def client(inputs: dict[str, Any]) -> None:
            async with turn:
                try:
                    answer: Answer = await ask(upstream, inputs, label=label)
                except Problem as problem:
                    outcomes[str(problem.status)] += 1
                    return
            outcomes["answered"] += 1
            assert answer.outputs["y"].shape == inputs["x"].shape
            assert fits(inputs["x"].shape, SHAPES[answer.version])

        async with group(*replicas, model=model, retries={"seconds": 1.0}) as upstream:
            await ended(asyncio.gather(*(client(request(draw)) for _ in range(REQUESTS))), seconds=200.0)
            for message in (message for replica in replicas for message in replica.predicts):
                assert message.model_spec.WhichOneof("version_choice") == "version"
                sent = tuple(dim.size for dim in message.inputs["x"].tensor_shape.dim)
                assert fits(sent, SHAPES[message.model_spec.version.value]), message.model_spec
            assert min(world.moves for world in worlds) > 0

    asyncio.run(run())
    assert set(outcomes) <= {"answered", "422", "503", "504"}, outcomes
    assert outcomes["answered"]
    assert outcomes["422"]


def fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        size is None or size == given for given, size in zip(shape, wanted, strict=True)
    )
