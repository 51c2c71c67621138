"""A rollout to a version with another signature: clients whose items fit both do not see it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from gateway.gateways import Got, Running, gateway, is_problem, run
from gateway.model_servers import Replica, version

# Nothing is asked by the clock: only a request makes the gateway look.
SELDOM = {"interval_seconds": 600.0, "max_age_seconds": 600.0}
FLOATS = version((None,))
WHOLE = version((None,), dtype="DT_INT64", function=lambda given: {"y": given["x"] * np.int64(10)})
PAIRS = version((None, 2))


@pytest.mark.parametrize("batching", [False, True])
@pytest.mark.parametrize("unloaded", [False, True])
def test_items_that_fit_the_new_version_too_are_made_again_for_it(unloaded: bool, batching: bool) -> None:
    async def ask(g: Running) -> list[Got]:
        first = await g.predict({"items": [1, 2]})
        replica.configure({2: WHOLE} if unloaded else {1: FLOATS, 2: WHOLE}, {"stable": 2})
        return [first, await g.predict({"items": [1, 2]}), await g.predict({"items": [0.5]})]

    replica = Replica({1: FLOATS}, {"stable": 1})
    model = {"micro_batching": {"wait_ms": 1}} if batching else {}
    first, second, misfit = run(ask, replica, model=model, health=SELDOM)
    assert first.json["results"] == [1.0, 2.0]
    assert second.status == 200, second.json
    if unloaded:
        assert (second.json["version"], second.json["results"]) == (2, [10, 20])
        assert is_problem(misfit, 422)


def test_items_in_the_form_of_the_new_version_are_taken_as_soon_as_the_label_moved() -> None:
    async def ask(g: Running) -> Got:
        await g.predict({"item": 1})
        replica.configure({1: FLOATS, 2: PAIRS}, {"stable": 2})
        await asyncio.sleep(0.1)  # what was asked a moment ago is not asked again
        return await g.predict({"item": [1, 2]})

    replica = Replica({1: FLOATS}, {"stable": 1})
    got = run(ask, replica, model={}, health=SELDOM)
    assert got.status == 200, got.json
    assert (got.json["version"], got.json["result"]) == (2, [1.0, 2.0])


def test_a_label_that_has_moved_on_one_replica_only_is_not_seen() -> None:
    async def whole() -> None:
        replicas = [Replica({1: FLOATS, 2: WHOLE}, {"stable": number}) for number in (1, 2)]
        async with gateway(*replicas, model={}) as g:
            answers = [await g.predict({"items": [1, 2]}) for _ in range(40)]
            for got in answers:
                assert got.status == 200, got.json
                assert got.json["results"] == {1: [1.0, 2.0], 2: [10, 20]}[got.json["version"]]
            assert is_problem(await g.predict({"items": ["a"]}), 422)

    asyncio.run(whole())


def test_batches_of_one_request_are_answered_by_one_version_while_a_label_moves() -> None:
    async def whole() -> None:
        versions = {1: version((None, None)), 2: version((None, None), function=lambda given: {"y": given["x"] * 10})}
        replicas = [Replica(versions, {"stable": number}) for number in (1, 2)]
        model = {"processor": {"name": "tensors", "options": {"batches": False}}}
        async with gateway(*replicas, model=model) as g:
            for _ in range(5):
                got = await g.predict({"items": [[1] * size for size in range(1, 33)]})
                assert got.status == 200, got.json
                factor = {1: 1.0, 2: 10.0}[got.json["version"]]
                assert got.json["results"] == [[factor] * size for size in range(1, 33)]

    asyncio.run(whole())
