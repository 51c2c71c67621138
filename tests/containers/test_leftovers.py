"""Labels, what they say about a container's owner, and what a reaper makes of it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_engine import FakeEngine
from fakes import FakeClock
from tfs_deploy.containers.engine import ContainerSpec
from tfs_deploy.containers.ownership import Owner, Process, Purpose, leftovers, owner_of, reap
from tfs_deploy.errors import Unreachable

NOW = int(FakeClock().now().timestamp())
TEXT = st.text(max_size=20)
PROCESSES = st.builds(Process, st.text(min_size=1, max_size=20), st.integers(min_value=0), st.integers(min_value=0))


def make(engine: FakeEngine, owner: Owner) -> str:
    return engine.create(ContainerSpec("server:1", (), {}, owner.labels("instance")))


@given(st.builds(Owner, st.sampled_from(Purpose), st.none() | PROCESSES, TEXT, TEXT, TEXT, st.integers(min_value=0)))
def test_an_owner_is_read_as_it_was_written(owner: Owner) -> None:
    assert owner_of(owner.labels("instance")) == owner


@given(st.dictionaries(st.sampled_from([*Owner(Purpose.RUN, None).labels(""), "other"]), TEXT))
def test_any_labels_can_be_read(labels: dict[str, str]) -> None:
    owner = owner_of(labels)
    assert owner is None or labels["tfs_deploy.project"] == "tfs_deploy"


def test_whether_a_process_lives() -> None:
    this = Process.current()
    assert this.alive() is True
    assert dataclasses.replace(this, started=this.started + 1).alive() is False
    assert dataclasses.replace(this, host="elsewhere").alive() is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    its = dataclasses.replace(this, pid=child.pid, started=int(stat[19]))
    assert its.alive() is True
    child.kill()
    # A process that has ended and that nobody waited for still has its number.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert its.alive() is False
    child.wait()
    assert its.alive() is False


def gone() -> Process:
    return dataclasses.replace(Process.current(), started=0)


@pytest.mark.parametrize(
    ("owner", "why"),
    [
        (Owner(Purpose.THROW_AWAY, Process.current()), ""),
        (Owner(Purpose.THROW_AWAY, gone()), "has ended"),
        (Owner(Purpose.THROW_AWAY, Process("elsewhere", 1, 1)), ""),
        (Owner(Purpose.THROW_AWAY, Process("elsewhere", 1, 1), until=NOW + 60), ""),
        (Owner(Purpose.THROW_AWAY, Process("elsewhere", 1, 1), until=NOW), "time is over"),
        (Owner(Purpose.RUN, None, "d", "alive"), ""),
        (Owner(Purpose.RUN, None, "d", "dead"), "run dead of DAG d is over"),
        (Owner(Purpose.RUN, None, "d", "unknown"), ""),
        (Owner(Purpose.RUN, None, "d", "unknown", until=NOW - 1), "time is over"),
        (Owner(Purpose.RUN, gone(), "d", "alive"), ""),
        (Owner(Purpose.LONG_LIVED, gone(), "d", "dead", until=1), ""),
    ],
)
def test_what_is_a_leftover(owner: Owner, why: str) -> None:
    engine = FakeEngine()
    name = make(engine, owner)
    runs = {"alive": True, "dead": False}
    found = leftovers(engine, clock=FakeClock(), run_is_alive=lambda dag, run: runs.get(run))
    assert [one.id for one in found] == ([name] if why else [])
    assert all(why in one.reason for one in found)
    assert name in engine.containers


def test_reaping() -> None:
    engine = FakeEngine()
    dead, alive = make(engine, Owner(Purpose.THROW_AWAY, gone())), make(engine, Owner(Purpose.RUN, None, "d", "r"))
    foreign = engine.create(ContainerSpec("server:1", (), {}, {"tfs_deploy.project": "another"}))
    assert [one.id for one in reap(engine, clock=FakeClock())] == [dead]
    assert set(engine.containers) == {alive, foreign}
    assert reap(engine, clock=FakeClock()) == ()


def test_a_reaper_that_cannot_remove_says_so() -> None:
    engine = FakeEngine()
    make(engine, Owner(Purpose.THROW_AWAY, gone()))
    engine.before["remove"] = Unreachable("The engine went away.", "Start it.")
    with pytest.raises(Unreachable):
        reap(engine, clock=FakeClock())
