"""The report of an agent and the start-up file that it writes; see test_agent.py."""

from __future__ import annotations

from typing import Any

import pytest

from sync.bench import GROUP, Wrapped, labelled, settle
from tfs_deploy.deployment import desired_state
from tfs_deploy.errors import Refused
from tfs_deploy.serving.config import from_text


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


def test_two_agents_under_one_name_are_logged(bench, caplog):
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
    assert agent.status.ready
    assert bench.shown() == [1]
    assert [each.message for each in agent.status.problems] == ["Access denied. Give the right to write."]


# The start-up file.


def test_the_start_up_file_is_the_one_that_a_deploy_would_write_and_is_written_on_change_only(bench):
    from tfs_deploy.deployment import desired_state
    from tfs_deploy.deployment.startup_config import startup_text
    from tfs_deploy.serving.group import ServingGroup

    for _ in range(3):
        bench.publish()
    bench.want(m=labelled(3, stable=2, previous=1))
    agent = bench.agent()
    settle(agent, bench.clock)
    state = desired_state.read(bench.store.documents, ServingGroup("g", ("a:1",), "/models"))
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
    assert not agent.status.ready
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
    assert "models.config" in agent.status.problems[0].message
    bench.startup_config.rmdir()
    settle(agent, bench.clock)
    assert bench.shown() == [2]
    assert agent.status.ready


@pytest.mark.parametrize(
    "body", [b"{", b'{"models": {"../m": {"base_path": "/models/m", "versions": [1], "labels": {}}}}']
)
def test_a_desired_state_that_cannot_be_used_changes_nothing(bench, body):
    bench.publish()
    bench.want(m=labelled(stable=1))
    agent = bench.agent(keep=0, linger=0.0)
    settle(agent, bench.clock)
    before = bench.startup_config.read_text()
    documents = bench.store.documents
    documents.write(desired_state.key(GROUP), body, expected=documents.read(desired_state.key(GROUP)).tag)
    for _ in range(3):
        agent.poll()
        bench.clock.advance(100.0)
    assert agent.status.problems
    assert bench.startup_config.read_text() == before
    assert bench.shown() == [1]
