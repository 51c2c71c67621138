"""What an agent does, pass by pass: transfers are done when a pass ends, and the clock stands still."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sync.bench import DATA, Wrapped, damage, labelled, problems, settle
from tfs_deploy.deployment.agents import Trouble
from tfs_deploy.deployment.desired import DesiredModel
from tfs_deploy.errors import InvalidInput, Refused
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH
from tfs_deploy.serving.config import from_text
from tfs_deploy.store.local.filesystem import Filesystem
from tfs_deploy.sync.settings import AgentSettings

# What the desired state asks for.


def test_everything_that_is_listed_or_labelled_is_brought(bench):
    for _ in range(4):
        bench.publish()
    bench.want(m=labelled(4, stable=2, previous=1))
    agent = bench.agent()
    settle(agent, bench.clock)
    assert agent.standing.ready
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
    assert problems(agent) == [(Trouble.MISSING, "a", 1)], "the store has no such model"
    assert not agent.standing.ready
    assert bench.shown("m") == [1], "one model that is missing does not keep the others away"


def test_a_group_without_a_desired_state_gets_an_empty_start_up_file(bench):
    agent = bench.agent()
    agent.poll()
    assert bench.startup_config.read_text() == "model_config_list {\n}\n"
    assert agent.standing.needed is None
    assert not agent.standing.ready


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


def test_a_restart_trusts_what_is_the_stores_and_brings_nothing_again(bench):
    bench.publish()
    bench.want(m=labelled(stable=1))
    settle(bench.agent(), bench.clock)
    inode = (bench.root / "m/1").stat().st_ino
    store = Wrapped(bench.store)
    again = bench.agent(store=store)
    settle(again, bench.clock)
    assert again.standing.ready
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
    assert agent.standing.ready
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
    assert problems(agent) == [(Trouble.DIFFERS, "m", 1)]
    assert not agent.standing.ready
    assert bench.report().held == {}
    assert "left alone" in bench.report().problems[0].message
    bench.want(m=labelled(stable=2))
    for _ in range(5):
        agent.poll()
        bench.clock.advance(100.0)
    assert agent.standing.ready
    if what in {"no manifest", "a file"}:
        assert target.exists(), "without a manifest of ours it is not ours to remove"
        assert [(path, path.read_bytes()) for path in sorted(target.rglob("*")) if path.is_file()] == before


def test_a_directory_that_is_replaced_is_looked_at_again(bench):
    bench.publish()
    bench.publish()
    bench.want(m=labelled(stable=1))
    agent = bench.agent()
    settle(agent, bench.clock)
    shutil.rmtree(bench.root / "m/1")
    shutil.copytree(bench.folder / "store/m/2", bench.root / "m/1")
    for _ in range(3):
        agent.poll()
    assert problems(agent) == [(Trouble.DIFFERS, "m", 1)]
    shutil.rmtree(bench.root / "m/1")
    bench.clock.advance(100.0)
    settle(agent, bench.clock)
    assert agent.standing.ready
    assert bench.shown() == [1]


# What goes.


def test_what_is_no_longer_needed_goes_after_a_while_but_for_the_newest(bench):
    for _ in range(6):
        bench.publish()
    bench.want(m=labelled(1, 2, 3, 4, 5, stable=5, previous=4))
    agent = bench.agent(keep=1, linger=60.0)
    settle(agent, bench.clock)
    bench.want(m=labelled(stable=6, previous=5))
    settle(agent, bench.clock)
    assert bench.shown() == [1, 2, 3, 4, 5, 6], "a replica may still hold them"
    bench.clock.advance(61.0)
    agent.poll()
    assert bench.shown() == [4, 5, 6]
    assert bench.report().held == {"m": (4, 5, 6)}
    assert bench.leftovers() == []


def test_nothing_goes_while_its_successor_is_missing(bench):
    bench.publish()
    bench.want(m=labelled(stable=1))
    agent = bench.agent(keep=0, linger=0.0)
    settle(agent, bench.clock)
    bench.want(m=labelled(stable=7))
    for _ in range(3):
        agent.poll()
        bench.clock.advance(100.0)
    assert bench.shown() == [1]
    assert from_text(bench.startup_config.read_text())[0].labels == {"stable": 1}, "and a restart comes up with it"


def test_nothing_goes_while_the_store_is_silent(bench):
    bench.publish()
    bench.publish()
    store = Wrapped(bench.store)
    bench.want(m=labelled(stable=1))
    agent = bench.agent(store=store, keep=0, linger=30.0)
    settle(agent, bench.clock)
    bench.want(m=labelled(stable=2))
    settle(agent, bench.clock)
    store.away = True
    bench.clock.advance(100.0)
    agent.poll()
    assert bench.shown() == [1, 2]
    store.away = False
    bench.clock.advance(100.0)
    agent.poll()
    assert bench.shown() == [2]


def test_the_stage_of_a_version_that_nobody_needs_any_more_goes(bench):
    bench.publish()
    bench.want(m=DesiredModel("/models/m", (1,)))
    (bench.root / "m/.incoming-9/variables").mkdir(parents=True)
    (bench.root / "m/.removing-8-0abc/variables").mkdir(parents=True)
    (bench.root / "m/.somebodys").mkdir()
    settle(bench.agent(), bench.clock)
    assert bench.leftovers() == [".somebodys"]


def test_a_removal_that_fails_is_reported_and_made_up_for(bench):
    bench.publish()
    bench.publish()
    bench.want(m=labelled(stable=1))

    class Stuck(Filesystem):
        stuck = True

        def remove_file(self, path: Path) -> None:
            if self.stuck and ".removing-" in str(path):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            super().remove_file(path)

    files = Stuck()
    agent = bench.agent(files=files, keep=0, linger=0.0)
    settle(agent, bench.clock)
    bench.want(m=labelled(stable=2))
    settle(agent, bench.clock)
    assert agent.standing.ready, "what is needed is here"
    assert bench.shown() == [2], "and what is not is out of sight"
    assert "Permission denied" in agent.standing.problems[0].message
    files.stuck = False
    bench.clock.advance(60.0)
    agent.poll()
    assert bench.leftovers() == []
    assert agent.standing.problems == ()


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_keeps_the_agent_out_is_left_alone(bench):
    bench.publish()
    bench.want(m=labelled(stable=1))
    (bench.root / "private").mkdir(parents=True)
    (bench.root / "private").chmod(0)
    agent = bench.agent()
    settle(agent, bench.clock)
    assert agent.standing.ready


# Servers that follow the highest number.


def test_the_highest_version_is_followed(bench):
    bench.publish()
    bench.publish()
    agent = bench.agent(latest=("m",), keep=1, linger=0.0)
    settle(agent, bench.clock)
    assert bench.shown() == [2]
    for number in (3, 4):
        bench.publish()
        agent.poll()
        settle(agent, bench.clock)
        agent.poll()
        assert bench.shown() == [number - 1, number]
    assert bench.report().held == {"m": (3, 4)} or bench.report().held == {"m": (2, 3, 4)}


def test_a_version_that_is_taken_back_goes_when_the_one_below_is_there(bench):
    for _ in range(3):
        bench.publish()
    agent = bench.agent(latest=("m",))
    settle(agent, bench.clock)
    assert bench.shown() == [3]
    bench.store.withdraw("m", 3, "bad")
    agent.poll()
    assert bench.shown() == [2, 3]
    agent.poll()
    assert bench.shown() == [2]


def test_a_store_that_lost_everything_takes_nothing_away(bench):
    bench.publish()
    agent = bench.agent(latest=("m",), keep=0, linger=0.0)
    settle(agent, bench.clock)
    shutil.rmtree(bench.folder / "store/m")
    for _ in range(3):
        agent.poll()
        bench.clock.advance(100.0)
    assert bench.shown() == [1]


def test_a_model_without_a_version_gets_its_folder_and_is_waited_for(bench):
    bench.publish()
    agent = bench.agent(latest=("m", "x"))
    for _ in range(3):
        agent.poll()
    assert bench.shown() == [1]
    assert (bench.root / "x").is_dir()
    assert not agent.standing.ready
    assert agent.standing.without == ("x",)
    bench.publish("x")
    settle(agent, bench.clock)
    assert agent.standing.ready


def test_following_costs_one_look_per_model_and_pass(bench):
    for model in ("m", "x"):
        for _ in range(5):
            bench.publish(model)
    store = Wrapped(bench.store)
    agent = bench.agent(store=store, latest=("m", "x"))
    settle(agent, bench.clock)
    store.calls.clear()
    for _ in range(10):
        agent.poll()
    assert dict(store.calls) == {"tip": 20}


# What it tells.


def test_a_report_is_written_on_change_and_as_a_sign_of_life(bench):
    bench.publish()
    bench.want(m=labelled(stable=1))
    store = Wrapped(bench.store)
    agent = bench.agent(store=store)
    settle(agent, bench.clock)
    first = bench.report()
    store.calls.clear()
    for _ in range(29):
        bench.clock.advance(1.0)
        agent.poll()
    assert store.calls["write"] == 0
    bench.clock.advance(2.0)
    agent.poll()
    assert store.calls["write"] == 1
    assert bench.report().at > first.at
    assert agent.close()
    assert bench.report() is None


def test_the_report_of_an_earlier_life_is_taken_over(bench):
    bench.want(m=labelled(stable=1))
    bench.publish()
    settle(bench.agent(), bench.clock)
    before = bench.report()
    again = bench.agent()
    settle(again, bench.clock)
    assert bench.report().instance != before.instance
    assert bench.report().held == {"m": (1,)}


def test_two_agents_under_one_name_are_told(bench, caplog):
    bench.publish()
    bench.want(m=labelled(stable=1))
    one, two = bench.agent(), bench.agent()
    for agent in (one, two, one):
        settle(agent, bench.clock)
        bench.clock.advance(31.0)
        agent.poll()
    assert "give each its own with --name" in caplog.text


def test_a_store_that_takes_no_report_does_not_stop_the_agent(bench):
    bench.publish()
    bench.want(m=labelled(stable=1))

    class ReadOnly(Wrapped):
        @property
        def documents(self) -> Any:
            documents = bench.store.documents

            class Documents:
                read, list = documents.read, documents.list

                def write(self, *args: Any, **kwargs: Any) -> str:
                    raise Refused("Access denied.", "Give the right to write.")

            return Documents()

    agent = bench.agent(store=ReadOnly(bench.store))
    settle(agent, bench.clock)
    assert agent.standing.ready
    assert bench.shown() == [1]
    assert [each.message for each in agent.standing.problems] == ["Access denied. Give the right to write."]


# The start-up file.


def test_the_start_up_file_is_the_one_that_a_deploy_would_write_and_is_written_on_change_only(bench):
    from tfs_deploy.deployment import desired
    from tfs_deploy.deployment.startup import startup_text
    from tfs_deploy.serving.group import ServingGroup

    for _ in range(3):
        bench.publish()
    bench.want(m=labelled(3, stable=2, previous=1))
    agent = bench.agent()
    settle(agent, bench.clock)
    state = desired.read(bench.store.documents, ServingGroup("g", ("a:1",), "/models")).state
    assert bench.startup_config.read_text() == startup_text(state)
    assert from_text(bench.startup_config.read_text())[0].versions == (1, 2), "version 3 has no label"
    before = bench.startup_config.stat()
    for _ in range(3):
        agent.poll()
    assert bench.startup_config.stat().st_ino == before.st_ino


def test_a_start_up_file_stays_as_it_is_until_all_that_it_will_name_is_here(bench):
    bench.publish()
    bench.publish("n")
    bench.want(m=labelled(stable=1))
    agent = bench.agent()
    settle(agent, bench.clock)
    before = bench.startup_config.read_text()
    bench.publish()
    bench.want(m=labelled(stable=2, previous=1), n=labelled(stable=2, model="n"))
    settle(agent, bench.clock, passes=5)
    assert bench.shown() == [1, 2]
    assert bench.startup_config.read_text() == before
    assert not agent.standing.ready
    bench.publish("n")
    bench.clock.advance(60.0)
    settle(agent, bench.clock)
    labels = {entry.name: entry.labels for entry in from_text(bench.startup_config.read_text())}
    assert labels == {"m": {"previous": 1, "stable": 2}, "n": {"stable": 2}}


def test_a_start_up_file_that_cannot_be_written_is_reported_and_nothing_is_removed(bench):
    for _ in range(2):
        bench.publish()
    bench.want(m=labelled(stable=1))
    agent = bench.agent(keep=0, linger=0.0)
    settle(agent, bench.clock)
    bench.startup_config.unlink()
    bench.startup_config.mkdir()
    bench.want(m=labelled(stable=2))
    settle(agent, bench.clock, passes=5)
    assert bench.shown() == [1, 2]
    assert "models.config" in agent.standing.problems[0].message
    bench.startup_config.rmdir()
    settle(agent, bench.clock)
    assert bench.shown() == [2]
    assert agent.standing.ready
