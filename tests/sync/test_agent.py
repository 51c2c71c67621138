"""What an agent does, pass by pass: transfers are done when a pass ends, and the clock stands still."""

from __future__ import annotations

import os
import shutil

import pytest

from sync.bench import DATA, Wrapped, damage, labelled, problems, settle
from tfs_deploy.deployment.sync_agents import AgentErrorKind
from tfs_deploy.errors import InvalidInput
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH
from tfs_deploy.sync.settings import AgentSettings

# What the desired state asks for.


def test_everything_that_is_listed_or_labelled_is_brought(bench):
    for _ in range(4):
        bench.publish()
    bench.want(m=labelled(4, stable=2, previous=1))
    agent = bench.agent()
    settle(agent, bench.clock)
    assert agent.status.ready
    assert bench.shown() == [1, 2, 4]
    assert bench.leftovers() == []
    report = bench.report()
    assert report.held == {"m": (1, 2, 4)}
    assert (report.agent, report.group, report.problems) == ("agent", "g", ())


def test_every_model_gets_its_folder_before_anything_is_brought(bench):
    bench.publish()
    bench.want(a=labelled(stable=1, model="a"), m=labelled(stable=1))
    agent = bench.agent(store=Wrapped(bench.store))
    agent.poll()
    assert {path.name for path in bench.root.iterdir() if not path.name.startswith(".")} == {"a", "m"}
    settle(agent, bench.clock)
    assert problems(agent) == [(AgentErrorKind.MISSING, "a", 1)], "the store has no such model"
    assert not agent.status.ready
    assert bench.shown("m") == [1], "one model that is missing does not keep the others away"


def test_a_group_without_a_desired_state_gets_an_empty_start_up_file(bench):
    agent = bench.agent()
    agent.poll()
    assert bench.startup_config.read_text() == "model_config_list {\n}\n"
    assert agent.status.needed is None
    assert not agent.status.ready


def test_a_pass_costs_the_same_however_many_old_versions_there_are(bench):
    store = Wrapped(bench.store)
    costs = []
    for count in (3, 30):
        for _ in range(count):
            bench.publish(weights=os.urandom(8))
        bench.want(m=labelled(stable=2, previous=1))
        agent = bench.agent(store=store)
        settle(agent, bench.clock)
        store.calls.clear()
        for _ in range(10):
            agent.poll()
        costs.append(dict(store.calls))
    assert costs == [{"read": 20}] * 2


def test_the_name_of_an_agent_and_its_numbers_are_checked(bench):
    for bad in ({"name": "a/b"}, {"group": ".."}, {"keep": -1}, {"poll": 0.0}, {"latest": ("../m",)}):
        with pytest.raises(InvalidInput):
            AgentSettings(**{"group": "g", "name": "agent", **bad})
    with pytest.raises(InvalidInput, match="Leave one of the two out"):
        AgentSettings("g", "agent", latest=("m",), startup_config=bench.startup_config)
    with pytest.raises(InvalidInput, match="does not exist"):
        AgentSettings("g", "agent", startup_config=bench.folder / "none" / "models.config")


# What is here already.


def test_a_restart_keeps_verified_versions_and_downloads_nothing_again(bench):
    bench.publish()
    bench.want(m=labelled(stable=1))
    settle(bench.agent(), bench.clock)
    inode = (bench.root / "m/1").stat().st_ino
    store = Wrapped(bench.store)
    again = bench.agent(store=store)
    settle(again, bench.clock)
    assert again.status.ready
    assert (bench.root / "m/1").stat().st_ino == inode
    assert store.calls["download"] == 0
    assert store.calls["manifest"] == 1


def test_a_version_that_was_deleted_from_the_store_stays_while_it_is_needed(bench):
    bench.publish()
    bench.publish()
    bench.want(m=labelled(stable=1))
    settle(bench.agent(), bench.clock)
    bench.store.delete("m", 1)
    agent = bench.agent(keep=0, linger=0.0)
    settle(agent, bench.clock)
    assert agent.status.ready
    assert bench.shown() == [1]


@pytest.mark.parametrize("what", ["other bytes", "other size", "no manifest", "another version", "a file"])
def test_what_is_not_the_stores_is_reported_and_never_touched(bench, what):
    bench.publish()
    bench.publish()
    bench.want(m=labelled(stable=1))
    settle(bench.agent(), bench.clock)
    target = bench.root / "m/1"
    if what == "other bytes":
        damage(target / DATA)
    elif what == "other size":
        (target / DATA).write_bytes(b"short")
    elif what == "no manifest":
        (target / MANIFEST_PATH).unlink()
    elif what == "another version":
        shutil.rmtree(target)
        shutil.copytree(bench.folder / "store/m/2", target)
    else:
        shutil.rmtree(target)
        target.write_text("somebody's")
    before = [(path, path.read_bytes()) for path in sorted(target.rglob("*")) if path.is_file()]
    agent = bench.agent(deep=what == "other bytes", keep=0, linger=0.0)
    for _ in range(5):
        agent.poll()
        bench.clock.advance(100.0)
    assert problems(agent) == [(AgentErrorKind.DIFFERS, "m", 1)]
    assert not agent.status.ready
    assert bench.report().held == {}
    assert "left alone" in bench.report().problems[0].message
    bench.want(m=labelled(stable=2))
    for _ in range(5):
        agent.poll()
        bench.clock.advance(100.0)
    assert agent.status.ready
    if what in {"no manifest", "a file"}:
        assert target.exists(), "without a manifest of ours it is not ours to remove"
        assert [(path, path.read_bytes()) for path in sorted(target.rglob("*")) if path.is_file()] == before


def test_a_replaced_directory_is_checked_again(bench):
    bench.publish()
    bench.publish()
    bench.want(m=labelled(stable=1))
    agent = bench.agent()
    settle(agent, bench.clock)
    shutil.rmtree(bench.root / "m/1")
    shutil.copytree(bench.folder / "store/m/2", bench.root / "m/1")
    for _ in range(3):
        agent.poll()
    assert problems(agent) == [(AgentErrorKind.DIFFERS, "m", 1)]
    shutil.rmtree(bench.root / "m/1")
    bench.clock.advance(100.0)
    settle(agent, bench.clock)
    assert agent.status.ready
    assert bench.shown() == [1]
