"""One request on its way: its deadline, its client that leaves, and errors that are answers."""

from __future__ import annotations

import asyncio

import pytest

from gateway.model_servers import Replica, ask, group
from gateway.waiting import ended, until
from tfs_deploy.gateway.problem import Problem


def test_deadline_reaches_the_model_server_and_the_client() -> None:
    async def run() -> None:
        replica = Replica()
        replica.delay = 600.0
        async with group(replica) as upstream:
            with pytest.raises(Problem) as caught:
                await ended(ask(upstream, seconds=0.3))
            assert caught.value.status == 504
            # The server saw the deadline too: it stopped working on the answer.
            await until(lambda: replica.under_way == 0)
            assert replica.predicts == []

    asyncio.run(run())


def test_client_that_leaves_ends_its_call() -> None:
    async def run() -> None:
        replica = Replica()
        replica.delay = 600.0
        async with group(replica) as upstream:
            leaves = asyncio.create_task(ask(upstream))
            await until(lambda: replica.under_way == 1)
            leaves.cancel()
            await until(lambda: replica.under_way == 0)
            assert replica.predicts == []
            assert upstream.loads() == {replica.target: 0}
            assert upstream.admission.admitted == 0

    asyncio.run(run())


def status_of(outcome: object) -> object:
    return outcome.status if isinstance(outcome, Problem) else type(outcome).__name__


def test_errors_of_the_model_are_answers_and_tried_once() -> None:
    async def run() -> None:
        replicas = [Replica() for _ in range(2)]
        for replica in replicas:
            replica.fake.fail_next("Predict", "INVALID_ARGUMENT", "Incompatible shapes: [3] vs. [2]\n\t [[{{node a}}]]")
        async with group(*replicas) as upstream:
            with pytest.raises(Problem, match=r"Incompatible shapes: \[3\] vs. \[2\]\.$") as caught:
                await ask(upstream)
            assert caught.value.status == 422
            assert sum(len(replica.predicts) for replica in replicas) == 1
            replicas[0].fake.fail_next("Predict", "INTERNAL", "secret path")
            replicas[1].fake.fail_next("Predict", "INTERNAL", "secret path")
            statuses = [
                status_of(outcome)
                for outcome in await asyncio.gather(*(ask(upstream) for _ in range(6)), return_exceptions=True)
            ]
            assert set(statuses) <= {"Answer", 502, 422}
            assert 502 in statuses

    asyncio.run(run())
