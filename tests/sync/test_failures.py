"""What goes wrong around an agent: damaged versions, full disks, stores that are away, others at work."""

from __future__ import annotations

from typing import Any

import pytest

from sync.bench import DATA, Wrapped, damage, labelled, problems, settle
from tfs_deploy.deployment.sync_agents import AgentErrorKind
from tfs_deploy.errors import InvalidInput, Refused
from tfs_deploy.sync.disk import ReplicaDisk


def test_a_damaged_version_is_refused_retried_and_reported_and_comes_when_it_is_whole(bench):
    bench.publish()
    bench.publish()
    bench.want(m=labelled(stable=1, previous=2))
    path = bench.folder / "store/m/1" / DATA
    good = damage(path)
    store = Wrapped(bench.store)
    agent = bench.agent(store=store)
    for _ in range(20):
        agent.poll()
        bench.clock.advance(0.5)
        assert 1 not in bench.shown()
    assert bench.shown() == [2], "it keeps no other version away"
    assert 4 <= store.calls["download"] <= 7, "10 seconds of doubling pauses, and one for the other version"
    (problem,) = bench.report().problems
    assert (problem.kind, problem.model, problem.version) == (AgentErrorKind.CORRUPT, "m", 1)
    assert problem.attempts >= 3
    assert DATA in problem.message
    assert agent.status.exit_codes == {1}
    assert not bench.startup_config.exists(), "a new server must not start without `stable`"
    path.write_bytes(good)
    bench.clock.advance(100.0)
    settle(agent, bench.clock)
    assert agent.status.ready
    assert bench.report().problems == ()
    assert bench.shown() == [1, 2]


def test_a_full_disk_is_reported_before_a_byte_is_written_and_the_agent_recovers(bench):
    bench.publish(weights=b"x" * 5000)
    bench.want(m=labelled(stable=1))
    room = [4000]
    store = Wrapped(bench.store)
    agent = bench.agent(store=store, free=lambda path: room[0])
    for _ in range(3):
        agent.poll()
    (problem,) = agent.status.problems
    assert problem.kind is AgentErrorKind.DISK_FULL
    assert "and 4000 are free" in problem.message
    assert store.calls["download"] == 0
    assert bench.shown() == []
    assert bench.leftovers() == []
    room[0] = 10_000
    bench.clock.advance(15.0)
    settle(agent, bench.clock)
    assert agent.status.ready


def test_an_unreachable_store_changes_nothing_and_the_agent_recovers(bench):
    bench.publish()
    bench.publish()
    bench.want(m=labelled(stable=1))
    store = Wrapped(bench.store)
    settle(bench.agent(store=store), bench.clock)
    text = bench.startup_config.read_text()
    store.away = True
    agent = bench.agent(store=store, keep=0, linger=0.0)
    for _ in range(30):
        agent.poll()
        bench.clock.advance(10.0)
    assert bench.shown() == [1]
    assert bench.startup_config.read_text() == text
    assert {kind for kind, _, _ in problems(agent)} == {AgentErrorKind.UNREACHABLE}
    assert agent.status.exit_codes == {3}
    bench.want(m=labelled(stable=2, previous=1))
    store.away = False
    bench.clock.advance(15.0)
    settle(agent, bench.clock)
    assert agent.status.ready
    assert bench.shown() == [1, 2]
    assert agent.status.problems == ()


def test_a_download_that_was_cut_off_goes_on_where_it_was(bench):
    bench.publish(weights=b"y" * 100_000)
    bench.want(m=labelled(stable=1))
    path = bench.folder / "store/m/1" / DATA
    good = damage(path)
    agent = bench.agent()
    agent.poll()
    agent.poll()
    kept = bench.root / "m/.incoming-1/saved_model.pb"
    inode = kept.stat().st_ino
    path.write_bytes(good)
    settle(bench.agent(), bench.clock)
    assert bench.shown() == [1]
    assert (bench.root / "m/1/saved_model.pb").stat().st_ino == inode, "it was not fetched again"


def test_a_version_that_is_taken_back_while_it_is_on_its_way_is_not_shown(bench):
    bench.publish()
    bench.publish()

    class Withdrawing(Wrapped):
        def download(self, *args: Any, **kwargs: Any) -> None:
            bench.store.download(*args, **kwargs)
            if args[1] == 2:
                bench.store.withdraw("m", 2, "bad")

    agent = bench.agent(store=Withdrawing(bench.store), latest=("m",))
    settle(agent, bench.clock)
    assert bench.shown() == [1]
    assert bench.leftovers() == []


def test_another_agent_on_the_same_model_root_is_refused(bench):
    disk = ReplicaDisk(bench.root)
    disk.prepare()
    second = ReplicaDisk(bench.root).locked(bench.clock)
    with disk.locked(bench.clock), pytest.raises(Refused, match="Another sync agent works on"), second:
        pass
    with ReplicaDisk(bench.root).locked(bench.clock):
        pass


def test_a_model_root_that_is_a_store_is_refused(bench):
    bench.publish()
    store = bench.folder / "store"
    with pytest.raises(Refused, match="is a store of published versions"):
        ReplicaDisk(store).prepare()
    for root in (store, store / "m", bench.folder):
        with pytest.raises(Refused, match="lie within each other"):
            ReplicaDisk(root).require_apart_from(bench.store.directory)
    ReplicaDisk(bench.root).require_apart_from(bench.store.directory)
    ReplicaDisk(bench.root).require_apart_from(None)
    with pytest.raises(InvalidInput, match="typing error"):
        ReplicaDisk(bench.folder / "none/models").prepare()
