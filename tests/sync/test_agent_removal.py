"""What an agent takes away, and when; see test_agent.py."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from permission_bits import permissions_count
from sync.bench import Wrapped, labelled, settle
from tfs_deploy.deployment.desired_state import DesiredModel
from tfs_deploy.deployment.sync_agents import AgentErrorKind
from tfs_deploy.serving.config import from_text
from tfs_deploy.store.local.filesystem import Filesystem


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


def test_the_stage_of_a_version_that_is_not_required_is_removed(bench):
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
    assert agent.status.ready, "what is needed is here"
    assert bench.shown() == [2], "and what is not is out of sight"
    assert "Permission denied" in agent.status.problems[0].message
    files.stuck = False
    bench.clock.advance(60.0)
    agent.poll()
    assert bench.leftovers() == []
    assert agent.status.problems == ()


def test_a_folder_that_keeps_the_agent_out_is_left_alone(bench):
    bench.publish()
    bench.want(m=labelled(stable=1))
    (bench.root / "private").mkdir(parents=True)
    (bench.root / "private").chmod(0)
    with permissions_count():
        with pytest.raises(PermissionError):
            os.listdir(bench.root / "private")
        agent = bench.agent()
        settle(agent, bench.clock)
    assert agent.status.ready


def test_what_no_server_sees_makes_room_for_what_is_missing(bench):
    bench.publish(weights=b"x" * 5000)
    bench.want(m=labelled(stable=1))
    for leftover in (".incoming-9", ".removing-8-0abc"):
        (bench.root / "m" / leftover).mkdir(parents=True)
        (bench.root / "m" / leftover / "data").write_bytes(b"y" * 5000)

    def free(path: Path) -> int:
        used = sum(each.stat().st_size for each in bench.root.rglob("data"))
        return 10_000 - used

    agent = bench.agent(free=free)
    agent.poll()
    agent.poll()
    assert [each.kind for each in agent.status.problems] == [AgentErrorKind.DISK_FULL]
    bench.clock.advance(15.0)
    settle(agent, bench.clock)
    assert agent.status.ready
    assert bench.shown() == [1]
    assert bench.leftovers() == []


def test_nothing_behind_a_link_is_touched(bench):
    bench.publish()
    bench.want(m=labelled(stable=1))
    elsewhere = bench.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "keep").write_bytes(b"keep me")
    (bench.root / "m").mkdir(parents=True)
    for name in (".incoming-1", ".incoming-9", ".removing-8-0abc"):
        (bench.root / "m" / name).symlink_to(elsewhere)
    agent = bench.agent()
    settle(agent, bench.clock)
    agent.poll()
    assert agent.status.problems == ()
    assert [path.name for path in elsewhere.iterdir()] == ["keep"]
    assert not (bench.root / "m/1").is_symlink()
    assert bench.shown() == [1]
    assert bench.leftovers() == []


def test_a_file_that_has_the_name_of_a_stage_or_a_leftover_goes(bench):
    bench.publish()
    bench.want(m=labelled(stable=1))
    (bench.root / "m").mkdir(parents=True)
    for name in (".incoming-1", ".removing-8-0abc"):
        (bench.root / "m" / name).write_bytes(b"")
    agent = bench.agent()
    settle(agent, bench.clock)
    agent.poll()
    assert bench.shown() == [1]
    assert bench.leftovers() == []
