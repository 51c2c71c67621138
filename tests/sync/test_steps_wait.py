"""The steps of a deploy on a store that model servers cannot read: they wait for the agents, and say what for.

Two replicas share the disk of one agent here; the agent makes a pass whenever the deployer sleeps.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from deployment.conftest import Workbench, make_bench
from deployment.test_crashes import Fuse, Killed, deploy_good, finished, fused
from deployment_names import MODEL
from fakes import FakeClock
from sync.bench import at_once
from sync.remote import RemoteStore
from tfs_deploy.deployment import desired_state, sync_agents, sync_requests
from tfs_deploy.deployment.agent_wait import AgentWait
from tfs_deploy.deployment.modes import reject_on_failure
from tfs_deploy.deployment.modes.labels import deploy
from tfs_deploy.deployment.steps.load import load
from tfs_deploy.deployment.steps.reject import reject
from tfs_deploy.deployment.steps.retire import retire
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.deployment.sync_agents import AgentErrorKind, AgentProblem, AgentReport, LiveAgents
from tfs_deploy.errors import DeadlineExceeded, LoadFailed, Unreachable
from tfs_deploy.jsonable import to_json
from tfs_deploy.serving.waiting import WaitLimits
from tfs_deploy.sync.agent import Agent
from tfs_deploy.sync.disk import ReplicaDisk
from tfs_deploy.sync.settings import AgentSettings
from tfs_deploy.validation.config import Gates

pytestmark = pytest.mark.faults

DATA = "variables/variables.data-00000-of-00001"


class Side(Workbench):
    """A workbench whose servers read a disk that an agent fills."""

    agent: Agent
    disk: Path

    def start_agent(self) -> None:
        disk = ReplicaDisk(self.disk)
        disk.prepare()
        settings = AgentSettings("default", "one", startup_config=self.folder / "models.config", linger=5.0, keep=1)
        self.agent = Agent(self.store, disk, settings, clock=self.clock, launch=at_once)
        # A deployer that sleeps gives the agent its turn.
        self.clock._on_sleep = self.agent.poll

    def stop_agent(self) -> None:
        self.clock._on_sleep = None
        self.agent.close()

    def shown(self) -> list[int]:
        return sorted(int(path.name) for path in (self.disk / MODEL).iterdir() if path.name.isdigit())

    def state(self) -> desired_state.DesiredState:
        return desired_state.read(self.store.documents, self.group)


def make_side(folder: Path) -> Side:
    bench = make_bench(folder)
    side = object.__new__(Side)
    side.__dict__.update(bench.__dict__)
    side.disk = folder / "replica"
    side.store = RemoteStore(folder / "store", clock=bench.clock)
    side.group = replace(bench.group, model_root=str(side.disk), startup_config=None)
    side.session = replace(bench.session, store=side.store, group=side.group)
    side.start_agent()
    return side


@pytest.fixture(autouse=True)
def _patient_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that keeps a lease alive goes by the real time, and these waits by the clock of the test."""
    monkeypatch.setattr("tfs_deploy.deployment.lease.LEASE_SECONDS", 1000.0)


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return make_side(tmp_path)


def test_the_whole_way_through_an_agent(side: Side) -> None:
    first = side.promoted("good one")
    second = side.promoted("good two")
    assert side.answers() == [second] * 2
    assert rollback(side.session, MODEL).version == first
    assert side.answers() == [first] * 2
    third = side.promoted("good three")
    wrong = side.validated("wrong")
    reject(side.session, MODEL, wrong, reason="wrong answers")
    assert retire(side.session, MODEL, keep=0).retired == (second,)
    fourth = side.promoted("good four")
    assert retire(side.session, MODEL, keep=0).retired == (first,)
    for _ in range(4):
        side.agent.poll()
        side.clock.advance(10.0)
    assert side.shown() == [third, wrong, fourth], "what is labelled, and the newest other one"
    assert side.answers() == [fourth] * 2
    labels = {"stable": fourth, "previous": third}
    assert side.state().labels(MODEL) == labels


def test_the_replicas_hear_of_a_version_when_it_is_on_the_disk(side: Side) -> None:
    version = side.publish("good one")
    seen: list[tuple[bool, bool]] = []
    for client in side.session.clients.values():
        reload = client.reload

        def watching(config, *, timeout, before_attempt=None, reload=reload):
            (entry,) = config.model_config_list.config
            if version in entry.model_version_policy.specific.versions:
                on_disk = (side.disk / MODEL / str(version)).is_dir()
                seen.append((on_disk, version in side.state().models[MODEL].versions))
            reload(config, timeout=timeout, before_attempt=before_attempt)

        client.reload = watching
    load(side.session, MODEL, version)
    assert seen == [(True, True)] * 2


def test_a_rollback_does_not_wait_for_a_transfer(side: Side) -> None:
    first = side.promoted("good one")
    second = side.promoted("good two")
    third = side.publish("good three")
    moved: list[int] = []

    def transfer_begins() -> None:
        # While the deployer of the third version waits for the agent, somebody else goes back.
        side.clock._on_sleep = side.agent.poll
        assert third not in side.state().models[MODEL].versions, "the group hears of it when it is there"
        moved.append(rollback(side.session, MODEL).version)

    side.clock._on_sleep = transfer_begins
    load(side.session, MODEL, third)
    assert moved == [first]
    assert side.answers() == [first] * 2
    assert set(side.state().models[MODEL].versions) == {first, second, third}
    assert sync_requests.read(side.store.documents, "default")[0].versions == ()


def test_what_a_dead_deployer_waited_for_is_forgotten(side: Side) -> None:
    long_ago = (side.clock.now() - timedelta(seconds=1)).isoformat()
    left = sync_requests.SyncRequests((sync_requests.SyncRequest(MODEL, 99, long_ago),))
    side.store.documents.write(sync_requests.key("default"), to_json(left), expected=None)
    side.promoted("good one")
    assert sync_requests.read(side.store.documents, "default")[0].versions == ()


def test_without_an_agent_the_state_is_put_back(side: Side) -> None:
    first = side.promoted("good one")
    side.stop_agent()
    before = side.state()
    second = side.publish("good two")
    with pytest.raises(Unreachable, match=r"No sync agent of group 'default' has reported to s3://") as caught:
        load(side.session, MODEL, second)
    assert "tfs-deploy sync --store s3://bucket/models --group default" in caught.value.remedy
    assert replace(side.state(), generation=0) == replace(before, generation=0)
    assert side.clock.monotonic() >= side.session.wait.discovery
    side.start_agent()
    load(side.session, MODEL, second)
    assert side.answers() == [first] * 2


def test_a_dead_agent_is_not_waited_for_and_a_wrong_clock_does_not_make_one_dead(side: Side) -> None:
    side.promoted("good one")
    dead = AgentReport("dead", "default", side.clock.now().isoformat(), "x")
    side.store.documents.write(sync_agents.key("default", "dead"), to_json(dead), expected=None)
    started = side.clock.monotonic()
    side.promoted("good two")
    assert 110.0 < side.clock.monotonic() - started < 130.0, "as long as its report was fresh"
    late = replace(dead, agent="late", at="2001-01-01T00:00:00+00:00")
    key = sync_agents.key("default", "late")
    tag = side.store.documents.write(key, to_json(late), expected=None)
    fresh = LiveAgents(side.store.documents, "default")
    assert set(fresh.reports(side.clock.now())) == {"one"}
    side.store.documents.write(key, to_json(late), expected=tag)
    assert set(fresh.reports(side.clock.now())) == {"one", "late"}, "it lives, because it writes"
    later = LiveAgents(side.store.documents, "default", tags=fresh.tags)
    side.clock.advance(100.0)
    assert "late" in later.reports(side.clock.now())
    side.clock.advance(30.0)
    assert "late" not in later.reports(side.clock.now()), "it wrote once, and then no more"


def test_fewer_agents_than_replicas_are_logged_once(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    version = side.publish("good one")
    load(side.session, MODEL, version)
    told = [each.getMessage() for each in caplog.records if "Fewer sync agents" in each.getMessage()]
    assert len(told) == 1
    assert "(1: one)" in told[0]
    assert "replicas (2)" in told[0]
    caplog.clear()
    report = AgentReport("two", "default", side.clock.now().isoformat(), "x", held={MODEL: (version,)})
    side.store.documents.write(sync_agents.key("default", "two"), to_json(report), expected=None)
    load(side.session, MODEL, version)
    assert "Fewer sync agents" not in caplog.text


def test_a_document_that_is_no_report_is_left_out(side: Side) -> None:
    side.store.documents.write(sync_agents.key("default", "junk"), b"junk", expected=None)
    naive = AgentReport("naive", "default", "2026-01-01T00:00:00", "x")
    side.store.documents.write(sync_agents.key("default", "naive"), to_json(naive), expected=None)
    assert side.promoted("good one") == 1


def test_a_version_that_is_damaged_in_the_store_is_rejected_with_the_agents_words(side: Side) -> None:
    first = side.promoted("good one")
    second = side.publish("good two")
    path = side.folder / "store" / MODEL / str(second) / DATA
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with (
        pytest.raises(LoadFailed, match=rf"Sync agent one refused version {second} .* 3 times: .*{DATA}"),
        reject_on_failure(side.session, MODEL, second, reject),
    ):
        load(side.session, MODEL, second)
    assert side.store.versions(MODEL) == (first,)
    assert side.state().models[MODEL].versions == (first,)
    assert side.publish("good two") == second + 1, "the same bytes get a new number"
    assert side.answers() == [first] * 2


def test_damage_on_the_way_to_one_disk_does_not_reject_a_version_that_another_has_whole(side: Side) -> None:
    version = side.publish("good one")
    problem = AgentProblem(AgentErrorKind.CORRUPT, "came with another digest", MODEL, version, attempts=5)
    for name, more in (("bad", {"problems": (problem,)}), ("good", {"held": {MODEL: (version,)}})):
        report = AgentReport(name, "default", side.clock.now().isoformat(), "x", **more)
        side.store.documents.write(sync_agents.key("default", name), to_json(report), expected=None)
    assert not AgentWait(side.session, MODEL, version).poll(), "it is waited for"
    side.store.documents.delete(sync_agents.key("default", "good"))
    with pytest.raises(LoadFailed, match="came with another digest"):
        AgentWait(side.session, MODEL, version).poll()


def test_a_full_disk_is_waited_out_and_quoted(side: Side) -> None:
    first = side.promoted("good one")
    side.agent._disk._free = lambda path: 10
    second = side.publish("good two")
    with pytest.raises(DeadlineExceeded, match=r"not on every replica's disk after 30\d s \(one: Version 2 .* 10 are"):
        load(side.session, MODEL, second)
    assert side.state().models[MODEL].versions == (first,)
    side.agent._disk._free = lambda path: shutil.disk_usage(path).free
    load(side.session, MODEL, second)
    assert side.shown() == [first, second]


def test_what_keeps_a_version_away_is_its_own_problem_or_one_about_everything() -> None:
    own = AgentProblem(AgentErrorKind.CORRUPT, "own", "m", 2)
    other = AgentProblem(AgentErrorKind.CORRUPT, "other", "m", 3)
    all_of_it = AgentProblem(AgentErrorKind.FAILED, "everything")
    report = AgentReport("a", "g", "", "", problems=(other, all_of_it, own))
    assert report.problem_with("m", 2) is own
    assert report.problem_with("m", 4) is all_of_it
    assert replace(report, problems=(other,)).problem_with("m", 4) is None


def test_a_store_that_servers_read_needs_no_agent_and_waits_for_one_that_is_there(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    assert bench.promoted("good one") == 1
    report = AgentReport("slow", "default", bench.clock.now().isoformat(), "x")
    bench.store.documents.write(sync_agents.key("default", "slow"), to_json(report), expected=None)
    version = bench.publish("good two")
    with pytest.raises(DeadlineExceeded, match="slow: busy"):
        load(replace(bench.session, wait=WaitLimits(load=30.0)), MODEL, version)
    assert bench.answers() == [1, 1]


def test_killed_before_any_operation_a_plain_rerun_converges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Callable[[str], None]
) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    # No wait is long here, and whoever comes after a dead deployer waits for the end of its lease.
    monkeypatch.setattr("tfs_deploy.deployment.lease.LEASE_SECONDS", 15.0)
    points = 0
    for at in range(1000):
        folder = tmp_path / str(at)
        folder.mkdir()
        side = make_side(folder)
        side.first = side.promoted("good one")
        side.passed = {side.first, side.first + 1}

        def watch(side: Side = side) -> None:
            assert set(side.answers()) <= side.passed

        try:
            deploy_good(side, fused(side.session, Fuse(at, watch)))
        except Killed:
            points += 1
            watch()
            deploy_good(side, fused(side.session, Fuse(10_000, watch)))
            finished(side, deploy_good)
        else:
            finished(side, deploy_good)
            break
        assert side.shown() == [1, 2]
        shutil.rmtree(folder)
    assert points > 30
    tell(f"deploy through an agent: killed before {points} operations, 0 violations")


def test_a_deploy_in_one_go(side: Side) -> None:
    done = deploy(side.session, side.staged("good one"), MODEL, Gates())
    assert (done.record.version, side.answers()) == (1, [1, 1])
    assert isinstance(side.clock, FakeClock)
