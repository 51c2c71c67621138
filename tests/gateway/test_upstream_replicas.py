"""Replicas that die, hang or restart: clients must not see it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gateway.model_servers import Counts, Replica, ask, group, settings, version, x
from gateway.waiting import ended, until
from tfs_deploy.gateway.problem import Problem
from tfs_deploy.gateway.upstream.model import Upstream
from tfs_deploy.gateway.upstream.watch import Connections

HERE = Path(__file__).parent
# What a request looks for a model server, in tests of those that come back: longer than any busy machine takes.
PATIENT = {"seconds": 60.0}


class Crowd:
    """Eight clients that ask all the time; `outcomes` is how often what came back."""

    def __init__(self, upstream: Upstream) -> None:
        self.outcomes: Counter[str] = Counter()
        self._upstream = upstream
        self._leaving = False
        self._clients = [asyncio.ensure_future(self._client()) for _ in range(8)]

    async def answered(self, more: int) -> None:
        """Wait until so many more requests have come back."""
        goal = self.outcomes.total() + more
        await until(lambda: self.outcomes.total() >= goal, f"{goal} answers")

    async def leave(self) -> None:
        """Let each have its last answer."""
        self._leaving = True
        await ended(asyncio.gather(*self._clients))

    async def _client(self) -> None:
        while not self._leaving:
            try:
                await ask(self._upstream)
                self.outcomes["ok"] += 1
            except Problem as problem:
                self.outcomes[str(problem)] += 1
            await asyncio.sleep(0.002)


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
        async with group(*replicas, retries={**PATIENT, "lost": 3}) as upstream:
            crowd = Crowd(upstream)
            await crowd.answered(40)
            await replicas[0].stop()
            await crowd.answered(80)
            await replicas[0].start()
            before = len(replicas[0].predicts)
            await until(lambda: len(replicas[0].predicts) > before, "requests to the one that is back")
            await crowd.leave()
            assert set(crowd.outcomes) == {"ok"}, crowd.outcomes

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
            upstream = Upstream("m", settings(f"127.0.0.1:{port}", survivor.target, retries=PATIENT), Connections())
            await upstream.start()
            crowd = Crowd(upstream)
            await crowd.answered(40)
            os.kill(child.pid, signal.SIGKILL)
            await crowd.answered(80)
            await crowd.leave()
            assert set(crowd.outcomes) == {"ok"}, crowd.outcomes
            await until(lambda: upstream.replicas() == {f"127.0.0.1:{port}": False, survivor.target: True})
            await ended(upstream.stop(1.0))
            await survivor.stop()

        asyncio.run(run())
    finally:
        child.kill()
        child.wait()


def test_silent_replica_is_left_and_its_requests_go_elsewhere() -> None:
    """A host that vanishes answers nothing and closes nothing: what it was given is sent to another replica."""

    async def run() -> None:
        replicas = [Replica() for _ in range(2)]
        async with group(*replicas, health={"timeout_seconds": 1.0}, retries=PATIENT) as upstream:
            await asyncio.gather(*(ask(upstream) for _ in range(20)))
            replicas[0].silent = True
            answers = await asyncio.gather(*(ask(upstream) for _ in range(20)))
            assert {answer.replica for answer in answers} == {replicas[1].target}
            assert any(answer.attempts == 2 for answer in answers)

    asyncio.run(run())


def test_restart_of_the_only_replica_is_waited_for() -> None:
    async def run() -> None:
        replica = Replica()
        counts = Counts()
        health = {"max_age_seconds": 0.5}
        async with group(replica, health=health, retries=PATIENT, options={"meter": counts}) as upstream:
            await ask(upstream)
            await replica.stop()
            await until(lambda: upstream.signature() is None, "that what the label meant is too old to be used")
            waiting = asyncio.create_task(ask(upstream))
            await until(lambda: counts.events.get("round", 0) >= 2, "two rounds without anybody")
            assert not waiting.done()
            replica.fake.labels["m"].clear()  # up, but its model is not loaded yet
            await replica.start()
            asked = len(replica.questions)
            await until(lambda: len(replica.questions) >= asked + 3, "questions for the label")
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
            # Within the retry time, not the request's own, which is longer than the waiting here.
            with pytest.raises(Problem, match="No model server answers") as caught:
                await ended(ask(upstream, seconds=600.0))
            assert caught.value.status == 503
            assert int(caught.value.headers["Retry-After"]) >= 1
            assert "127.0.0.1" not in caught.value.detail
            assert not await upstream.ready()

    asyncio.run(run())


def test_nobody_there_at_the_start() -> None:
    async def run() -> None:
        late = Replica()
        await late.start()
        await late.stop()  # the port is known, and closed
        counts = Counts()
        upstream = Upstream("m", settings(late.target, retries=PATIENT), Connections(), meter=counts)
        await upstream.start()
        assert not await upstream.ready()
        waiting = asyncio.create_task(ask(upstream))
        await until(lambda: counts.events.get("round"), "a round without anybody")
        await late.start()
        assert (await waiting).version == 1
        assert await upstream.ready()
        await ended(upstream.stop(1.0))
        await late.stop()

    asyncio.run(run())


def test_request_that_ends_model_servers_is_not_handed_round() -> None:
    async def run() -> None:
        replicas = [Replica() for _ in range(4)]
        stops: dict[str, asyncio.Task[None]] = {}

        def ends(replica: Replica) -> None:
            stops[replica.target] = asyncio.get_running_loop().create_task(replica.stop())

        for replica in replicas:
            replica.delay = 600.0
            replica.on_predict = lambda replica=replica: ends(replica)
        async with group(*replicas, retries={"lost": 1}) as upstream:
            with pytest.raises(Problem) as caught:
                await ask(upstream)
            assert caught.value.status == 503
            assert len(stops) == 2
            await asyncio.gather(*stops.values())

    asyncio.run(run())


def test_failed_request_takes_its_replica_out_before_the_next_probe() -> None:
    async def run() -> None:
        replicas = [Replica() for _ in range(2)]
        counts = Counts()
        health = {"interval_seconds": 600.0, "max_age_seconds": 600.0}
        replicas[1].delay = 0.03  # the other one is chosen whenever it can be
        async with group(*replicas, health=health, options={"meter": counts}) as upstream:
            await asyncio.gather(*(ask(upstream) for _ in range(10)))
            await replicas[0].stop()
            for _ in range(30):
                assert (await ask(upstream)).replica == replicas[1].target
            assert counts.events["failed_attempt"] == 1
            assert counts.events["ejected"] == 1

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
