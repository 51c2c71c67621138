"""Sending the desired state: one deployer sends for all who wait, and nobody relies on what was sent to others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployment_names import MODEL
from tfs_deploy.deployment import desired_state
from tfs_deploy.deployment.apply import send
from tfs_deploy.deployment.desired_state import read_sent
from tfs_deploy.deployment.lease import group_lease, hold
from tfs_deploy.deployment.steps.load import load
from tfs_deploy.errors import Contention, Unreachable


@pytest.fixture
def changed(bench):
    """Return a group with a change of its desired state that nobody sent, and the generation of it."""
    bench.promoted("good one")
    bench.publish("good two")
    state = desired_state.change(bench.session, MODEL, lambda _, model: model.with_versions(2))
    return bench, state.generation


def reloads(bench) -> list[int]:
    return [sum(name == "HandleReloadConfigRequest" for name, _ in server.requests) for server in bench.servers]


def test_what_another_deployer_has_sent_is_not_sent_again(changed) -> None:
    bench, generation = changed
    send(bench.session, generation, purpose="test")
    before = reloads(bench)
    assert send(bench.session, generation, purpose="test").errors == {}
    assert reloads(bench) == before
    send(bench.session, generation, purpose="test", again=True)
    assert reloads(bench) == [count + 1 for count in before]


def test_who_waits_for_the_lease_goes_on_once_its_change_was_sent(changed) -> None:
    """The holder sends the newest state, with the change of the waiter in it; the waiter never gets the lease."""
    bench, generation = changed
    send(bench.session, generation, purpose="test")
    before = reloads(bench)
    with hold(group_lease(bench.session, "a long change")):
        assert send(bench.session, generation, purpose="test").generation == generation
    assert reloads(bench) == before
    assert bench.clock.slept == []


def test_a_send_to_some_replicas_is_none_to_the_others(changed) -> None:
    bench, generation = changed
    first = dict(list(bench.session.clients.items())[:1])
    send(replace(bench.session, clients=first), generation, purpose="test")
    before = reloads(bench)
    send(bench.session, generation, purpose="test")
    assert reloads(bench) == [count + 1 for count in before]


def test_a_replica_that_was_left_out_is_asked_by_the_next(changed) -> None:
    bench, generation = changed
    send(bench.session, generation, purpose="test", skip=("replica-2:8500",))
    before = reloads(bench)
    send(bench.session, generation, purpose="test")
    assert reloads(bench)[1] == before[1] + 1


def test_a_replica_that_is_away_is_away_for_all_who_wait(changed) -> None:
    bench, generation = changed
    bench.servers[1].unreachable = True
    assert list(send(bench.session, generation, purpose="test").errors) == ["replica-2:8500"]
    before = reloads(bench)
    shared = send(bench.session, generation, purpose="test")
    assert reloads(bench) == before
    with pytest.raises(Unreachable, match="replica-2:8500"):
        shared.raise_errors()


def test_a_config_that_was_refused_is_sent_again_by_the_next(changed) -> None:
    """The refusal may be for the change of somebody else, who takes it back."""
    bench, generation = changed
    bench.servers[1].fail_next("HandleReloadConfigRequest", "INVALID_ARGUMENT", "a bad base path")
    assert list(send(bench.session, generation, purpose="test").errors) == ["replica-2:8500"]
    assert send(bench.session, generation, purpose="test").errors == {}


def test_a_change_that_its_deployer_died_before_sending_is_sent_by_the_next_step(changed) -> None:
    bench, generation = changed
    desired_state.change(bench.session, MODEL, lambda _, model: model.with_labels({**model.labels, "blue": 1}))
    load(bench.session, MODEL, 2)
    assert read_sent(bench.store.documents, "default").generation > generation
    assert [server.labels[MODEL]["blue"] for server in bench.servers] == [1, 1]


def test_a_desired_state_that_was_lost_begins_above_what_was_sent(bench) -> None:
    bench.promoted("good one")
    sent = read_sent(bench.store.documents, "default").generation
    bench.store.documents.delete(desired_state.key("default"))
    state = desired_state.change(bench.session, MODEL, lambda _, model: model.with_labels({"blue": 1}))
    assert state.generation > sent
    assert state.models[MODEL].versions == (1,), "it begins with the start-up file"


def test_a_group_that_stays_held_names_the_holder(changed) -> None:
    bench, generation = changed
    holder = group_lease(bench.session, "a job that hangs")
    holder.acquire()
    bench.clock = bench.session.clock

    class Renewing:
        """A clock in whose pauses the holder renews its lease."""

        now, monotonic = bench.clock.now, bench.clock.monotonic

        def sleep(self, seconds: float) -> None:
            bench.clock.sleep(seconds)
            holder.renew()

    with pytest.raises(Contention, match="is held by a test for a job that hangs since 2026-01-01"):
        send(replace(bench.session, clock=Renewing()), generation, purpose="test")
