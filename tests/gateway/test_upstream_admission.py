"""Back-pressure: a bounded number inside, turns in order, and a drain that loses nobody."""

from __future__ import annotations

import asyncio

import pytest

from fakes import FakeClock
from gateway.model_servers import Replica, ask, group
from gateway.waiting import LONG, ended, until
from tfs_deploy.clock import SystemClock
from tfs_deploy.gateway.problem import Problem
from tfs_deploy.gateway.upstream.admission import Admission


def test_more_than_concurrency_and_queue_are_told_to_come_back() -> None:
    async def run() -> None:
        replica = Replica()
        replica.held = asyncio.Event()
        async with group(replica, limits={"concurrency": 2, "queue": 3}) as upstream:
            tasks = [asyncio.create_task(ask(upstream)) for _ in range(9)]
            await until(lambda: sum(task.done() for task in tasks) == 4 and replica.under_way == 2)
            replica.held.set()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            refused = [outcome for outcome in outcomes if isinstance(outcome, Problem)]
            assert {outcome.status for outcome in refused} == {429}
            assert len(refused) == 4
            assert int(refused[0].headers["Retry-After"]) >= 1
            assert len(replica.predicts) == 5
            assert (await ask(upstream)).version == 1

    asyncio.run(run())


def test_no_more_calls_at_once_than_there_are_turns() -> None:
    async def run() -> None:
        replica = Replica()
        replica.delay = 0.05
        calls: list[int] = []
        async with group(replica, limits={"concurrency": 3, "queue": 100}) as upstream:

            def note() -> None:
                calls.append(1)
                assert len(calls) - len(replica.predicts) <= 3

            replica.on_predict = note
            await asyncio.gather(*(ask(upstream) for _ in range(15)))
            assert len(calls) == 15

    asyncio.run(run())


def test_turn_that_does_not_come_in_time() -> None:
    async def run() -> None:
        replica = Replica()
        replica.held = asyncio.Event()
        async with group(replica, limits={"concurrency": 1, "queue": 5}) as upstream:
            first = asyncio.create_task(ask(upstream))
            await until(lambda: replica.under_way == 1)
            with pytest.raises(Problem, match="for a free slot") as caught:
                await ask(upstream, seconds=0.1)
            assert caught.value.status == 503
            replica.held.set()
            assert (await first).version == 1
            assert upstream.admission.admitted == upstream.admission.waiting == 0
            assert (await ask(upstream)).version == 1

    asyncio.run(run())


def test_turns_come_in_order_and_survive_cancelled_waiters() -> None:
    async def run() -> None:
        admission = Admission("m", 1, 10, SystemClock())
        order: list[int] = []
        deadline = asyncio.get_running_loop().time() + LONG

        async def client(number: int) -> None:
            async with admission.slot(deadline):
                order.append(number)
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(client(number)) for number in range(6)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        tasks[0].cancel()  # while it has the turn
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 1, 3, 4, 5]
        async with admission.slot(deadline):
            assert admission.waiting == 0

    asyncio.run(run())


def test_turn_that_comes_as_its_waiter_leaves_is_passed_on() -> None:
    async def run() -> None:
        admission = Admission("m", 1, 10, SystemClock())
        deadline = asyncio.get_running_loop().time() + LONG
        done: list[str] = []

        async def client(name: str) -> None:
            async with admission.slot(deadline):
                done.append(name)

        async with admission.slot(deadline):
            leaves, stays = (asyncio.create_task(client(name)) for name in ("leaves", "stays"))
            await asyncio.sleep(0)
        leaves.cancel()  # its turn was given a moment ago
        await asyncio.gather(leaves, stays, return_exceptions=True)
        assert done == ["stays"]

    asyncio.run(run())


def test_retry_after_follows_what_requests_take() -> None:
    clock = FakeClock()
    admission = Admission("m", 1, 0, clock)
    for _ in range(50):
        with admission.admit():
            clock.advance(4.0)
    with admission.admit(), pytest.raises(Problem) as caught, admission.admit():
        pass
    assert caught.value.headers["Retry-After"] == "4"


def test_drain_answers_who_is_inside_and_refuses_who_comes() -> None:
    async def run() -> None:
        replica = Replica()
        replica.held = asyncio.Event()
        async with group(replica, model={"micro_batching": {}}) as upstream:
            inside = [asyncio.create_task(ask(upstream)) for _ in range(4)]
            await until(lambda: replica.under_way == 1)
            stopping = asyncio.create_task(upstream.stop(LONG))
            await asyncio.sleep(0)
            with pytest.raises(Problem, match="shutting down") as caught:
                await ask(upstream)
            assert caught.value.status == 503
            assert not stopping.done()
            replica.held.set()
            assert {answer.version for answer in await asyncio.gather(*inside)} == {1}
            assert await stopping

    asyncio.run(run())


def test_drain_ends_with_its_grace() -> None:
    async def run() -> None:
        replica = Replica()
        replica.delay = 600.0
        async with group(replica, retries={"seconds": 0.1}) as upstream:
            stuck = asyncio.create_task(ask(upstream, seconds=600.0))
            await until(lambda: replica.under_way == 1)
            assert not await ended(upstream.stop(0.2))
            with pytest.raises(Problem) as caught:
                await ended(stuck)
            assert caught.value.status == 503

    asyncio.run(run())
