"""Candidates that nobody deploys any more are retired; those on their way and those that were live stay."""

from __future__ import annotations

from datetime import timedelta

import pytest

from deployment_names import MODEL
from tfs_deploy.deployment import desired_state
from tfs_deploy.deployment.records import Action, history
from tfs_deploy.deployment.steps.load import load, wait_until_available
from tfs_deploy.deployment.steps.retire import ABANDONED_AFTER, retire
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.deployment.steps.validate import validate
from tfs_deploy.deployment.unload import unload
from tfs_deploy.errors import InvalidInput
from tfs_deploy.validation.config import Gates

DAY = ABANDONED_AFTER.total_seconds()


def test_a_candidate_that_nobody_went_on_with_is_unloaded_and_deleted(bench) -> None:
    old = bench.promoted("good one")
    left = bench.validated("good two")
    bench.clock.advance(DAY - 1)
    assert retire(bench.session, MODEL).retired == ()
    bench.clock.advance(1)
    plan = retire(bench.session, MODEL, dry_run=True)
    assert (plan.retired, plan.abandoned, plan.kept) == ((left,), (left,), (old,))
    assert bench.store.versions(MODEL) == (old, left)
    assert retire(bench.session, MODEL).abandoned == (left,)
    assert bench.store.versions(MODEL) == (old,)
    assert {server.state(MODEL, left) for server in bench.servers} == {"END"}
    record = history(bench.store.documents, "default", MODEL)[-1]
    assert (record.action, record.version) == (Action.RETIRED, left)
    assert "nobody went on with its deploy for 1 day" in record.reason
    assert bench.answers() == [old, old]


def test_a_candidate_that_was_only_loaded_counts_from_its_load(bench) -> None:
    bench.promoted("good one")
    version = bench.publish("good two")
    bench.clock.advance(DAY)
    load(bench.session, MODEL, version)
    wait_until_available(bench.session, MODEL, version)
    assert retire(bench.session, MODEL).retired == ()
    bench.clock.advance(DAY)
    assert retire(bench.session, MODEL).retired == (version,)


def test_a_candidate_that_is_validated_again_is_under_way_again(bench) -> None:
    bench.promoted("good one")
    version = bench.validated("good two")
    bench.clock.advance(DAY - 1)
    validate(bench.session, MODEL, version, Gates())
    bench.clock.advance(DAY - 1)
    assert retire(bench.session, MODEL).retired == ()


def test_a_version_that_was_live_once_is_never_abandoned(bench) -> None:
    for number in range(1, 4):
        bench.promoted(f"good {number}")
    rollback(bench.session, MODEL, to=1)
    rollback(bench.session, MODEL, to=2)
    bench.clock.advance(30 * DAY)
    assert retire(bench.session, MODEL, abandoned_after=timedelta(0)).retired == ()
    assert rollback(bench.session, MODEL, to=3).version == 3


def test_a_time_below_zero_is_refused(bench) -> None:
    with pytest.raises(InvalidInput, match="abandoned after"):
        retire(bench.session, MODEL, abandoned_after=timedelta(hours=-1))


def test_what_a_rejection_that_died_has_left_is_ended(bench) -> None:
    bench.promoted("good one")
    left = bench.validated("wrong")
    unload(bench.session, MODEL, (left,), purpose="rejection")
    assert retire(bench.session, MODEL).retired == (), "somebody may be rejecting it right now"
    bench.clock.advance(DAY)
    assert retire(bench.session, MODEL).abandoned == (left,)
    assert bench.store.versions(MODEL) == (1,)
    assert desired_state.read(bench.store.documents, bench.group).models[MODEL].unloading == ()
