"""Replicas that die, hang, restart or are slow: clients must not see it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gateway.model_servers import Counts, Replica, ask, group, settings, version, x
from tfs_deploy.gateway.problem import Problem
from tfs_deploy.gateway.upstream.connections import Connections
from tfs_deploy.gateway.upstream.model import Upstream

HERE = Path(__file__).parent


def status_of(outcome: object) -> object:
    return outcome.status if isinstance(outcome, Problem) else type(outcome).__name__


async def load(upstream: Upstream, seconds: float, clients: int = 8) -> Counter[object]:
    """Ask from `clients` at once for `seconds`; return how often what came back."""
    outcomes: Counter[object] = Counter()
    until = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < until:
            try:
                await ask(upstream)
                outcomes["ok"] += 1
            except Problem as problem:
                outcomes[str(problem)] += 1
            await asyncio.sleep(0.002)

    await asyncio.gather(*(client() for _ in range(clients)))
    return outcomes


def test_answer_names_model_version_label_and_replica() -> None:
    async def run() -> None:
        replica = Replica({3: version()}, {"stable": 3})
        async with group(replica) as upstream:
            answer = await ask(upstream, x(1.0, 2.0))
            assert (answer.model, answer.version, answer.label) == ("m", 3, "stable")
            assert (answer.replica, answer.attempts) == (replica.target, 1)
            np.testing.assert_array_equal(answer.outputs["y"], np.array([1.0, 2.0], np.float32))
            assert await upstream.ready()

    asyncio.run(run())


def test_load_is_spread_over_replicas() -> None:
    async def run() -> None:
        replicas = [Replica() for _ in range(3)]
        async with group(*replicas, options={"draw": random.Random(7)}) as upstream:
            await asyncio.gather(*(ask(upstream) for _ in range(60)))
            assert min(len(replica.predicts) for replica in replicas) >= 5

    asyncio.run(run())


def test_replica_that_stops_mid_load_is_not_seen_and_comes_back() -> None:
    async def run() -> None:
        replicas = [Replica() for _ in range(2)]
        for replica in replicas:
            replica.delay = 0.005
        async with group(*replicas) as upstream:

            async def outage() -> None:
                await asyncio.sleep(0.3)
                await replicas[0].stop()
                await asyncio.sleep(0.4)
                await replicas[0].start()

            outcomes, _ = await asyncio.gather(load(upstream, 1.2), outage())
            assert set(outcomes) == {"ok"}, outcomes
            assert outcomes["ok"] > 100
            for _ in range(100):
                if all(upstream.replicas().values()):
                    break
                await asyncio.sleep(0.05)
            before = len(replicas[0].predicts)
            await asyncio.gather(*(ask(upstream) for _ in range(40)))
            assert len(replicas[0].predicts) > before

    asyncio.run(run())


def test_process_killed_mid_load_is_not_seen() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen(
        [sys.executable, str(HERE / "model_servers.py"), "0"], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert child.stdout is not None
        port = int(child.stdout.readline())

        async def run() -> None:
            survivor = Replica()
            await survivor.start()
            upstream = Upstream("m", settings(f"127.0.0.1:{port}", survivor.target), Connections())
            await upstream.start()

            async def kill() -> None:
                await asyncio.sleep(0.4)
                os.kill(child.pid, signal.SIGKILL)

            outcomes, _ = await asyncio.gather(load(upstream, 1.0), kill())
            assert set(outcomes) == {"ok"}, outcomes
            assert upstream.replicas() == {f"127.0.0.1:{port}": False, survivor.target: True}
            await upstream.stop(1.0)
            await survivor.stop()

        asyncio.run(run())
    finally:
        child.kill()
        child.wait()


def test_silent_replica_is_left_and_its_requests_go_elsewhere() -> None:
    """A host that vanishes answers nothing and closes nothing: what it was given is sent to another replica."""

    async def run() -> None:
        replicas = [Replica() for _ in range(2)]
        async with group(*replicas) as upstream:
            await asyncio.gather(*(ask(upstream) for _ in range(20)))
            replicas[0].silent = True
            started = time.monotonic()
            answers = await asyncio.gather(*(ask(upstream, seconds=8.0) for _ in range(20)))
            assert {answer.replica for answer in answers} == {replicas[1].target}
            assert time.monotonic() - started < 4.0
            assert any(answer.attempts == 2 for answer in answers)

    asyncio.run(run())


def test_restart_of_the_only_replica_is_waited_for() -> None:
    async def run() -> None:
        replica = Replica()
        async with group(replica) as upstream:
            await ask(upstream)
            await replica.stop()
            waiting = asyncio.create_task(ask(upstream))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            replica.fake.labels["m"].clear()  # up, but its model is not loaded yet
            await replica.start()
            await asyncio.sleep(0.3)
            assert not waiting.done()
            replica.fake.labels["m"]["stable"] = 1
            assert (await waiting).version == 1

    asyncio.run(run())


def test_all_down_is_503_within_the_retry_time() -> None:
    async def run() -> None:
        replicas = [Replica() for _ in range(2)]
        async with group(*replicas, retries={"seconds": 0.3}) as upstream:
            for replica in replicas:
                await replica.stop()
            started = time.monotonic()
            with pytest.raises(Problem, match="No model server answers") as caught:
                await ask(upstream)
            assert caught.value.status == 503
            assert int(caught.value.headers["Retry-After"]) >= 1
            assert "127.0.0.1" not in caught.value.detail
            assert time.monotonic() - started < 1.5
            assert not await upstream.ready()

    asyncio.run(run())


def test_nobody_there_at_the_start() -> None:
    async def run() -> None:
        late = Replica()
        await late.start()
        await late.stop()  # the port is known, and closed
        upstream = Upstream("m", settings(late.target), Connections())
        await upstream.start()
        assert not await upstream.ready()
        waiting = asyncio.create_task(ask(upstream))
        await asyncio.sleep(0.1)
        await late.start()
        assert (await waiting).version == 1
        assert await upstream.ready()
        await upstream.stop(1.0)
        await late.stop()

    asyncio.run(run())


def test_deadline_reaches_the_model_server_and_the_client() -> None:
    async def run() -> None:
        replica = Replica()
        replica.delay = 2.0
        async with group(replica) as upstream:
            started = time.monotonic()
            with pytest.raises(Problem) as caught:
                await ask(upstream, seconds=0.2)
            assert caught.value.status == 504
            assert time.monotonic() - started < 1.0
            await asyncio.sleep(0.1)
            # The server saw the deadline too: it never came to compute the answer.
            assert replica.predicts == []

    asyncio.run(run())


def test_request_that_ends_model_servers_is_not_handed_round() -> None:
    async def run() -> None:
        replicas = [Replica() for _ in range(4)]
        ended: dict[str, asyncio.Task[None]] = {}

        def ends(replica: Replica) -> None:
            ended[replica.target] = asyncio.get_running_loop().create_task(replica.stop())

        for replica in replicas:
            replica.delay = 5.0
            replica.on_predict = lambda replica=replica: ends(replica)
        async with group(*replicas, retries={"lost": 1}) as upstream:
            with pytest.raises(Problem) as caught:
                await ask(upstream)
            assert caught.value.status == 503
            assert len(ended) == 2
            await asyncio.gather(*ended.values())

    asyncio.run(run())


def test_failed_request_takes_its_replica_out_before_the_next_probe() -> None:
    async def run() -> None:
        replicas = [Replica() for _ in range(2)]
        counts = Counts()
        health = {"interval_seconds": 5.0, "max_age_seconds": 5.0}
        replicas[1].delay = 0.03  # the other one is chosen whenever it can be
        async with group(*replicas, health=health, options={"meter": counts}) as upstream:
            await asyncio.gather(*(ask(upstream) for _ in range(10)))
            await replicas[0].stop()
            for _ in range(30):
                assert (await ask(upstream)).replica == replicas[1].target
            assert counts.events["failed_attempt"] == 1
            assert counts.events["ejected"] == 1

    asyncio.run(run())


def test_client_that_leaves_ends_its_call() -> None:
    async def run() -> None:
        replica = Replica()
        replica.delay = 0.3
        async with group(replica) as upstream:
            leaves = asyncio.create_task(ask(upstream))
            await asyncio.sleep(0.1)
            leaves.cancel()
            await asyncio.sleep(0.5)
            assert replica.predicts == []
            assert upstream.loads() == {replica.target: 0}
            assert upstream.admission.inside == 0

    asyncio.run(run())


def test_full_batching_queue_of_one_replica_is_tried_at_another() -> None:
    async def run() -> None:
        replicas = [Replica() for _ in range(3)]
        for replica in replicas[:2]:
            text = "The batch scheduling queue to which this task was submitted is full"
            replica.fake.fail_next("Predict", "UNAVAILABLE", text, times=1000)
        async with group(*replicas) as upstream:
            answers = [await ask(upstream) for _ in range(20)]
            assert {answer.replica for answer in answers} == {replicas[2].target}

    asyncio.run(run())


def test_slow_replica_gets_little() -> None:
    async def run() -> None:
        slow, quick = Replica(), Replica()
        slow.delay = 0.5
        async with group(slow, quick, options={"draw": random.Random(3)}) as upstream:
            for _ in range(5):
                await asyncio.gather(*(ask(upstream) for _ in range(8)))
            # Even shares would be 20 each; how far below depends on how busy the machine is.
            assert len(slow.predicts) * 2 < len(quick.predicts)

    asyncio.run(run())


def test_hedge_answers_for_a_slow_replica() -> None:
    async def run() -> None:
        slow, quick = Replica(), Replica()
        slow.delay = 3.0
        counts = Counts()
        options = {"draw": random.Random(1), "meter": counts}
        async with group(slow, quick, model={"hedging": {"after_ms": 30}}, options=options) as upstream:
            started = time.monotonic()
            answers = await asyncio.gather(*(ask(upstream) for _ in range(6)))
            assert {answer.replica for answer in answers} == {quick.target}
            assert time.monotonic() - started < 1.5
            assert 1 <= counts.events["hedge"] <= 6
            await asyncio.sleep(0.1)
            assert upstream.loads() == {slow.target: 0, quick.target: 0}  # what was not needed was called off

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


def test_names_are_looked_up_again() -> None:
    async def run() -> None:
        one, two = Replica(), Replica()
        await one.start()
        await two.start()
        found = [one.target]
        config = settings("dns:models.example:8500", health={"resolve_seconds": 0.05})
        upstream = Upstream("m", config, Connections(), resolve=lambda targets: tuple(found))
        await upstream.start()
        assert (await ask(upstream)).replica == one.target
        found[:] = [two.target]
        for _ in range(100):
            if list(upstream.replicas()) == [two.target]:
                break
            await asyncio.sleep(0.02)
        assert list(upstream.replicas()) == [two.target]
        assert (await ask(upstream)).replica == two.target
        await upstream.stop(1.0)
        await one.stop()
        await two.stop()

    asyncio.run(run())


def test_replica_that_leaves_the_name_answers_what_it_has() -> None:
    async def run() -> None:
        one, two = Replica(), Replica()
        for replica in (one, two):
            await replica.start()
        one.delay = 0.8
        found = [one.target]
        config = settings("dns:models.example:8500", health={"resolve_seconds": 0.05})
        upstream = Upstream("m", config, Connections(), resolve=lambda targets: tuple(found))
        await upstream.start()
        waiting = asyncio.create_task(ask(upstream))
        await asyncio.sleep(0.1)
        found[:] = [two.target]
        await asyncio.sleep(0.3)
        assert list(upstream.replicas()) == [two.target]
        answer = await waiting
        assert (answer.replica, answer.attempts) == (one.target, 1)
        await upstream.stop(1.0)
        await one.stop()
        await two.stop()

    asyncio.run(run())


def test_connections_are_shared_and_kept() -> None:
    async def run() -> None:
        replica = Replica()
        await replica.start()
        opened: list[str] = []
        from tfs_deploy.serving import client_aio

        def connect(target: str, *, tls: object = None) -> client_aio.AsyncModelServerClient:
            opened.append(target)
            return client_aio.connect(target)

        connections = Connections(connect=connect)
        upstreams = [Upstream("m", settings(replica.target), connections) for _ in range(2)]
        for upstream in upstreams:
            await upstream.start()
        for upstream in upstreams:
            for _ in range(5):
                await ask(upstream)
        assert opened == [replica.target]
        await upstreams[0].stop(1.0)
        assert (await ask(upstreams[1])).version == 1
        await upstreams[1].stop(1.0)
        await replica.stop()

    asyncio.run(run())
