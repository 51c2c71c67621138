"""Kill and break every step of an agent; start it again; nothing incomplete was ever visible, nothing is left (I3)."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store.faults import FaultyFilesystem, die, failing, in_child
from sync.bench import Bench, labelled, settle
from tfs_deploy.errors import TFSDeployError
from tfs_deploy.serving.config import from_text
from tfs_deploy.store.local.store import LocalStore
from tfs_deploy.sync.agent import Agent
from watching_server import WatchingServer

pytestmark = pytest.mark.faults

Scenario = Callable[[Bench], None]


def first_versions(bench: Bench) -> None:
    """An empty disk, and two models to bring."""
    bench.want(m=labelled(stable=1), n=labelled(stable=1, model="n"))


def next_version(bench: Bench) -> None:
    """One version is here and goes, the next one comes."""
    first_versions(bench)
    settle(bench.agent(), bench.clock)
    bench.want(m=labelled(stable=2), n=labelled(stable=1, model="n"))


SCENARIOS = [first_versions, next_version]


@pytest.fixture
def disk() -> Iterator[Path]:
    """A fresh directory, in memory where the machine has such a place."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="tfs-deploy-sync-", dir=memory))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def prepare(disk: Path) -> Callable[[Scenario], Bench]:
    """Return a fresh bench on which the scenario is about to happen."""
    pristine = {}
    for scenario in SCENARIOS:
        folder = disk / f"pristine-{scenario.__name__}"
        folder.mkdir()
        bench = Bench(folder)
        for model in ("m", "n", "m"):
            bench.publish(model)
        scenario(bench)
        pristine[scenario] = folder

    def copy(scenario: Scenario) -> Bench:
        target = disk / "now"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(pristine[scenario], target)
        return Bench(target)

    return copy


def faulty_agent(bench: Bench, files: FaultyFilesystem, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """Return an agent whose every change of a disk is counted: its own, the download's, and the report's."""
    monkeypatch.setattr("tfs_deploy.store.download.target.Filesystem", lambda: files)
    store = LocalStore(bench.folder / "store", clock=bench.clock, files=files)
    return bench.agent(files=files, store=store, keep=0, linger=0.0)


def work(bench: Bench, agent: Agent) -> None:
    """Let the agent do all that there is to do: bring, write the start-up file, take away."""
    for _ in range(20):
        agent.poll()
        check_nothing_half_visible(bench)
        if agent.status.ready and not agent.status.problems:
            break
        bench.clock.advance(20.0)


def check_nothing_half_visible(bench: Bench) -> None:
    shown = {model: bench.shown(model) for model in ("m", "n")}  # each of them is whole
    if bench.startup_config.exists():
        for entry in from_text(bench.startup_config.read_text()):
            assert set(entry.versions) <= set(shown[entry.name]), "the start-up file names what is not there"
            assert "stable" in entry.labels


def server_of(bench: Bench, scenario: Scenario) -> WatchingServer:
    """Return a server beside the agent; of each model one version must answer from its first on."""
    stable = {"m": (1,), "n": (1,)} if scenario is first_versions else {"m": (1, 2), "n": (1,)}
    return WatchingServer(bench.root, ("m", "n"), stable=stable)


def check_finished(bench: Bench, scenario: Scenario) -> None:
    check_nothing_half_visible(bench)
    wanted = [1] if scenario is first_versions else [2]
    assert (bench.shown("m"), bench.shown("n")) == (wanted, [1])
    assert bench.leftovers() == []
    config = {entry.name: entry.labels for entry in from_text(bench.startup_config.read_text())}
    assert config["m"]["stable"] == wanted[-1]
    report = bench.report()
    assert report is not None
    assert report.held == {"m": tuple(wanted), "n": (1,)}
    assert report.problems == ()


def count_steps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> int:
    files = FaultyFilesystem()
    work(bench, faulty_agent(bench, files, monkeypatch))
    return files.steps


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_at_any_step_leaves_nothing_half_visible_and_a_restart_finishes(
    prepare, monkeypatch, tell, scenario, after
):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # processes die here, not machines
    steps = count_steps(prepare(scenario), monkeypatch)
    assert steps > 40
    looks = 0
    for at in range(1, steps + 1):
        bench = prepare(scenario)
        files = FaultyFilesystem(at, die, after=after)
        with server_of(bench, scenario).watching() as server:
            job = lambda b=bench, f=files: work(b, faulty_agent(b, f, monkeypatch))  # noqa: E731
            assert in_child(job, during_fork=server.still()) == -9
            check_nothing_half_visible(bench)
            server.look()
            work(bench, bench.agent(keep=0, linger=0.0))
        check_finished(bench, scenario)
        server.expect("m", *bench.shown("m"))
        looks += server.looks
    when = "after" if after else "before"
    tell(f"{scenario.__name__}: killed {when} {steps} steps, {looks} looks of a server, 0 violations")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=["full", "gone", "forbidden"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_error_at_any_step_is_reported_and_the_same_agent_goes_on(prepare, monkeypatch, tell, scenario, number):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    steps = count_steps(prepare(scenario), monkeypatch)
    looks = 0
    for at in range(1, steps + 1):
        bench = prepare(scenario)
        files = FaultyFilesystem(at, failing(number))
        agent = None
        while agent is None:  # the first step of all may be the one that fails
            with contextlib.suppress(TFSDeployError):
                agent = faulty_agent(bench, files, monkeypatch)
        with server_of(bench, scenario).watching() as server:
            work(bench, agent)
            # A removal that failed is made up for by the next pass.
            agent.poll()
        check_finished(bench, scenario)
        server.expect("m", *bench.shown("m"))
        looks += server.looks
    tell(f"{scenario.__name__}: {os.strerror(number)} at {steps} steps, {looks} looks of a server, 0 violations")
