"""The agent on a store in S3 (moto), behind a proxy that breaks each request in turn, or kills the agent there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s3_proxy import Fault, Proxy, Request, proxy_to
from s3_server import ACCESS_KEY, SECRET, S3Server, moto_server
from sync.bench import GROUP, Bench, labelled
from sync.remote import SYNC
from tfs_deploy.deployment.sync_agents import AgentErrorKind
from tfs_deploy.store.open import open_store
from tfs_deploy.sync.agent import Agent
from watching_server import WatchingServer

pytestmark = pytest.mark.faults

FAULTS = {
    "reset": Fault(reset=True),
    "503": Fault(status=503, code="SlowDown"),
    "500": Fault(status=500, code="InternalError"),
    "truncated": Fault(truncate=True),
    "other bytes": Fault(corrupt=True),
    "slow": Fault(slow_seconds=0.2),
}


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    pytest.importorskip("boto3", reason="the extra `s3` is not installed")
    with moto_server() as running:
        yield running


@pytest.fixture
def proxy(server: S3Server) -> Iterator[Proxy]:
    with proxy_to(server.url) as running:
        yield running


@pytest.fixture
def make(server: S3Server, tmp_path: Path) -> Callable[[], Bench]:
    """Return a bench whose store is a new bucket, with two versions that are needed and two that are not."""
    bucket, count = server.new_bucket(), iter(range(1000))
    first = Bench(tmp_path)
    first.store = open_store(f"s3://{bucket}/models", s3=server.options())
    for _ in range(4):
        first.publish()
    first.want(m=labelled(stable=3, previous=2))

    def another() -> Bench:
        folder = tmp_path / str(next(count))
        folder.mkdir()
        bench = Bench(folder)
        bench.store = first.store
        return bench

    return another


def through(bench: Bench, proxy: Proxy, **more) -> Agent:
    """Return an agent whose requests go through the proxy."""
    store = open_store(bench.store.uri, s3=S3Server(proxy.url).options(max_retries=0))
    return bench.agent(store=store, **more)


def work(bench: Bench, agent: Agent) -> None:
    for _ in range(20):
        agent.poll()
        bench.shown()  # each of them is whole
        if agent.status.ready and not agent.status.problems:
            return
        bench.clock.advance(20.0)


@pytest.mark.parametrize("name", FAULTS)
def test_any_request_may_break(make, proxy, name: str, tell) -> None:
    proxy.start_over()
    bench = make()
    work(bench, through(bench, proxy))
    count = len(proxy.requests)
    assert count > 10
    looks = 0
    for at in range(1, count + 1):
        bench = make()
        proxy.start_over(lambda request, at=at: FAULTS[name] if request.count == at else None)
        agent = through(bench, proxy)
        with WatchingServer(bench.root, stable={"m": (3,)}).watching() as server:
            work(bench, agent)
        server.expect("m", 2, 3)
        looks += server.looks
        proxy.rule = None
        assert agent.status.ready, (at, agent.status)
        assert bench.shown() == [2, 3]
        assert bench.leftovers() == []
        assert bench.report().held == {"m": (2, 3)}
        agent.close()
    tell(f"{name}: at each of {count} requests, {looks} looks of a server, 0 violations")


def test_a_storm_passes(make, proxy) -> None:
    bench = make()
    agent = through(bench, proxy)
    work(bench, agent)
    text = bench.startup_config.read_text()
    proxy.start_over(lambda request: FAULTS["503"])
    for _ in range(3):
        bench.clock.advance(20.0)
        agent.poll()
    assert {problem.kind for problem in agent.status.problems} == {AgentErrorKind.UNREACHABLE}
    assert bench.shown() == [2, 3]
    assert bench.startup_config.read_text() == text
    proxy.start_over()
    bench.clock.advance(20.0)
    agent.poll()
    assert agent.status.ready
    assert agent.status.problems == ()


def test_a_pass_costs_the_same_however_many_versions_there_are(make, proxy) -> None:
    bench = make()
    for latest, more in (((), 0), ((), 12), (("m",), 0), (("m",), 12)):
        for _ in range(more):
            bench.publish()
        agent = through(bench, proxy, latest=latest)
        work(bench, agent)
        proxy.start_over()
        for _ in range(5):
            agent.poll()
        assert len(proxy.requests) == (5 if latest else 10), [request.path for request in proxy.requests]


def test_a_damaged_object_is_refused_and_named(make, proxy, server: S3Server) -> None:
    bench = make()
    bucket = bench.store.uri.split("/")[2]
    key = "models/m/3/variables/variables.index"
    good = server.client().get_object(Bucket=bucket, Key=key)["Body"].read()
    server.client().put_object(Bucket=bucket, Key=key, Body=b"x" * len(good))
    agent = through(bench, proxy)
    for _ in range(4):
        agent.poll()
        bench.clock.advance(100.0)
    assert bench.shown() == [2]
    (problem,) = bench.report().problems
    assert (problem.kind, problem.version) == (AgentErrorKind.CORRUPT, 3)
    assert "variables/variables.index" in problem.message
    server.client().put_object(Bucket=bucket, Key=key, Body=good)
    bench.clock.advance(100.0)
    work(bench, agent)
    assert bench.shown() == [2, 3]


def test_killed_at_any_request_a_plain_rerun_finishes(make, proxy, tell) -> None:
    looks = killed = 0
    ended = -9
    # How often an agent looks again depends on the time it takes: at last one is not reached by its kill.
    while ended == -9:
        at = killed + 1
        bench = make()
        running: list[subprocess.Popen[bytes]] = []

        def rule(request: Request, at: int = at, running=running) -> Fault | None:
            return Fault(before=lambda: running[0].kill()) if request.count == at else None

        proxy.start_over(rule)
        with WatchingServer(bench.root, stable={"m": (3,)}).watching() as server:
            running.append(once(bench, proxy))
            ended = running[0].wait(120)
            killed += ended == -9
            bench.shown()  # each of them is whole
            proxy.start_over()
            assert once(bench, proxy).wait(120) == 0
        server.expect("m", 2, 3)
        looks += server.looks
        assert bench.shown() == [2, 3]
        assert bench.leftovers() == []
    assert ended == 0
    assert killed > 10
    tell(f"killed at each of {killed} requests, {looks} looks of a server, 0 violations")


def once(bench: Bench, proxy: Proxy) -> subprocess.Popen[bytes]:
    command = [*SYNC, "--store", bench.store.uri, "--model-root", str(bench.root), "--group", GROUP, "--once"]
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }
    with (bench.folder / "log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)
