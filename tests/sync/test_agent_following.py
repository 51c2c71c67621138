"""Agents of servers that follow the highest number; see test_agent.py."""

from __future__ import annotations

import shutil

from sync.bench import Wrapped, settle


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
    assert not agent.status.ready
    assert agent.status.without == ("x",)
    bench.publish("x")
    settle(agent, bench.clock)
    assert agent.status.ready


def test_following_costs_one_read_per_model_and_pass(bench):
    for model in ("m", "x"):
        for _ in range(5):
            bench.publish(model)
    store = Wrapped(bench.store)
    agent = bench.agent(store=store, latest=("m", "x"))
    settle(agent, bench.clock)
    store.calls.clear()
    for _ in range(10):
        agent.poll()
    assert dict(store.calls) == {"change_token": 20}
