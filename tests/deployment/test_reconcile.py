"""Replicas that are away, restart empty or are changed by hand: a rollback goes on without them, reconcile ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployment_names import MODEL
from fakes import FakeClient, FakeModelServer
from tfs_deploy.deployment import desired_state
from tfs_deploy.deployment.records import Action, history
from tfs_deploy.deployment.steps.load import load
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.reconcile import reconcile
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.deployment.steps.status import status
from tfs_deploy.errors import Drift, InvalidInput, Unreachable
from tfs_deploy.serving.config import from_text


@pytest.fixture
def two_versions(bench):
    """Return a group whose second version is live."""
    bench.promoted("good one")
    bench.promoted("good two")
    return bench


def restarted_empty(bench, index: int) -> None:
    """Let a replica lose everything, as one does that starts without a config file."""
    old = bench.servers[index]
    empty = FakeModelServer(old.target, discover=old._discover)
    bench.servers[index] = empty
    bench.session.clients[old.target] = FakeClient(empty)


def test_a_rollback_moves_who_answers_and_names_who_does_not(two_versions, caplog) -> None:
    bench = two_versions
    bench.servers[1].unreachable = True
    record = rollback(bench.session, MODEL)
    assert (record.version, record.replicas, record.away) == (1, ("replica-1:8500",), ("replica-2:8500",))
    assert "replica-2:8500 was not moved" in caplog.text
    assert bench.stable() == [1, 2]
    entry = from_text(Path(bench.group.startup_config).read_text())[0]
    assert entry.labels == {"stable": 1, "previous": 2}, "who restarts comes up with what is live"


def test_reconcile_brings_over_who_was_away(two_versions) -> None:
    bench = two_versions
    bench.servers[1].unreachable = True
    rollback(bench.session, MODEL)
    with pytest.raises(Unreachable, match="replica-2:8500 does not answer"):
        reconcile(bench.session)
    bench.servers[1].unreachable = False
    with pytest.raises(Drift, match="replica-2:8500"):
        load(bench.session, MODEL, bench.publish("good three"))
    assert list(reconcile(bench.session).replicas) == ["replica-2:8500"]
    assert bench.answers() == [1, 1]
    assert status(bench.session).differences == ()
    assert history(bench.store.documents, "default", MODEL)[-1].action is Action.RECONCILED


def test_a_replica_without_the_target_is_left_for_reconcile(two_versions) -> None:
    bench = two_versions
    restarted_empty(bench, 1)
    assert rollback(bench.session, MODEL).away == ("replica-2:8500",)
    assert bench.stable() == [1, None]
    assert list(reconcile(bench.session).replicas) == ["replica-2:8500"]
    assert bench.answers() == [1, 1]


def test_reconcile_never_takes_a_label_from_what_answers_before_the_other_is_loaded(two_versions) -> None:
    bench = two_versions
    server = bench.servers[1]
    server.labels[MODEL] = {"stable": 1}
    answered = []
    handle = server.handle

    def watch(method, request):
        reply = handle(method, request)
        if method.name == "HandleReloadConfigRequest":
            answered.append(FakeClient(server).metadata(MODEL, label="stable", timeout=1.0).version)
        return reply

    server.handle = watch
    reconcile(bench.session)
    assert set(answered) <= {1, 2}
    assert bench.answers() == [2, 2]


def test_a_group_that_serves_what_it_should_is_left_alone(two_versions) -> None:
    bench = two_versions
    before = [len(server.requests) for server in bench.servers]
    assert reconcile(bench.session).replicas == {}
    asked = [name for server, at in zip(bench.servers, before, strict=True) for name, _ in server.requests[at:]]
    assert "HandleReloadConfigRequest" not in asked


def test_a_rollback_undoes_an_interrupted_promotion_that_nobody_can_end(two_versions) -> None:
    """The deployer died while replica 2 was away, and it is still away."""
    bench = two_versions
    three = bench.validated("good three")
    bench.servers[1].unreachable = True

    def begin(state, model):
        record = history(bench.store.documents, "default", MODEL)[-1]
        move = desired_state.LabelMove(
            {"stable": three, "previous": 2},
            type(record)(0, "2026-01-01T00:00:00+00:00", "default", MODEL, Action.PROMOTED, three, "who died"),
        )
        return type(model)(**{**_fields(model), "move": move})

    desired_state.change(bench.session, MODEL, begin)
    assert rollback(bench.session, MODEL).version == 2
    assert bench.stable()[0] == 2
    bench.servers[1].unreachable = False
    reconcile(bench.session)
    assert bench.answers() == [2, 2]


def test_a_promotion_still_needs_every_replica(two_versions) -> None:
    bench = two_versions
    three = bench.validated("good three")
    bench.servers[1].unreachable = True
    with pytest.raises(Unreachable):
        promote(bench.session, MODEL, three)
    bench.servers[1].unreachable = False
    assert bench.answers() == [2, 2]


def test_a_stated_quorum_is_enough_and_names_the_others(two_versions) -> None:
    bench = two_versions
    three = bench.validated("good three")
    bench.servers[1].unreachable = True
    record = promote(bench.session, MODEL, three, quorum=1)
    assert (record.replicas, record.away) == (("replica-1:8500",), ("replica-2:8500",))
    assert bench.stable() == [three, 2]
    bench.servers[1].unreachable = False
    reconcile(bench.session)
    assert bench.answers() == [three, three]


@pytest.mark.parametrize("quorum", [0, -1, 3])
def test_a_quorum_that_the_group_cannot_have_changes_nothing(two_versions, quorum) -> None:
    with pytest.raises(InvalidInput, match=f"quorum of {quorum} .* 2 replicas"):
        promote(two_versions.session, MODEL, 1, quorum=quorum)
    assert two_versions.answers() == [2, 2]


def test_a_quorum_that_does_not_answer_changes_nothing(two_versions) -> None:
    bench = two_versions
    three = bench.validated("good three")
    bench.servers[1].unreachable = True
    with pytest.raises(Unreachable, match=r"1 replica .* answer, and the quorum is 2"):
        promote(bench.session, MODEL, three, quorum=2)
    bench.servers[1].unreachable = False
    assert bench.answers() == [2, 2]


def _fields(model):
    return {name: getattr(model, name) for name in type(model).__dataclass_fields__}
