"""Who the replicas are: names that are looked up again, and connections that are shared and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.model_servers import Replica, ask, settings
from gateway.waiting import ended, until
from tfs_deploy.errors import Unreachable
from tfs_deploy.gateway.upstream.model import Upstream
from tfs_deploy.gateway.upstream.watch import Connections
from tfs_deploy.serving import client
from tfs_deploy.serving.group import parse_targets

NAMED = "dns:models.example:8500"
SOON = {"resolve_seconds": 0.05}


def test_names_are_looked_up_again() -> None:
    async def run() -> None:
        one, two = Replica(), Replica()
        await one.start()
        await two.start()
        found = [one.target]
        upstream = Upstream("m", settings(NAMED, health=SOON), Connections(), resolve=lambda targets: tuple(found))
        await upstream.start()
        assert (await ask(upstream)).replica == one.target
        found[:] = [two.target]
        await until(lambda: list(upstream.replicas()) == [two.target])
        assert (await ask(upstream)).replica == two.target
        await ended(upstream.stop(1.0))
        await one.stop()
        await two.stop()

    asyncio.run(run())


def test_a_name_is_looked_up_again_whatever_a_look_up_fails_with() -> None:
    async def run() -> None:
        replica = Replica()
        await replica.start()
        failures = [RuntimeError("can't start new thread"), Unreachable("No answer.", "Try again.")]
        found: list[str] = ["127.0.0.1:1"]

        def resolve(targets: Sequence[str]) -> tuple[str, ...]:
            if found[0] == replica.target and failures:
                raise failures.pop(0)
            return tuple(found)

        upstream = Upstream("m", settings(NAMED, health=SOON), Connections(), resolve=resolve)
        await upstream.start()
        found[:] = [replica.target]
        await until(lambda: list(upstream.replicas()) == [replica.target])
        assert failures == []
        assert (await ask(upstream)).replica == replica.target
        await ended(upstream.stop(1.0))
        await replica.stop()

    asyncio.run(run())


@pytest.mark.parametrize("name", ["a" * 64, "a..b"])
def test_a_name_that_cannot_be_asked_for_is_told_in_a_sentence(name: str) -> None:
    with pytest.raises(Unreachable, match=name):
        parse_targets([f"dns:{name}:8500"])


def test_replica_that_leaves_the_name_answers_what_it_has() -> None:
    async def run() -> None:
        one, two = Replica(), Replica()
        for replica in (one, two):
            await replica.start()
        one.held = asyncio.Event()
        found = [one.target]
        upstream = Upstream("m", settings(NAMED, health=SOON), Connections(), resolve=lambda targets: tuple(found))
        await upstream.start()
        waiting = asyncio.create_task(ask(upstream))
        await until(lambda: one.under_way == 1)
        found[:] = [two.target]
        await until(lambda: list(upstream.replicas()) == [two.target])
        assert not waiting.done()
        one.held.set()
        answer = await waiting
        assert (answer.replica, answer.attempts) == (one.target, 1)
        await ended(upstream.stop(1.0))
        await one.stop()
        await two.stop()

    asyncio.run(run())


def test_connections_are_shared_and_kept() -> None:
    async def run() -> None:
        replica = Replica()
        await replica.start()
        opened: list[str] = []

        def connect(target: str, *, tls: object = None) -> client.AsyncModelServerClient:
            opened.append(target)
            return client.connect_aio(target)

        connections = Connections(connect=connect)
        upstreams = [Upstream("m", settings(replica.target), connections) for _ in range(2)]
        for upstream in upstreams:
            await upstream.start()
        for upstream in upstreams:
            for _ in range(5):
                await ask(upstream)
        assert opened == [replica.target]
        await ended(upstreams[0].stop(1.0))
        assert (await ask(upstreams[1])).version == 1
        await ended(upstreams[1].stop(1.0))
        await replica.stop()

    asyncio.run(run())
