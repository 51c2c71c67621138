"""The deployment record: what it answers, and that a request is carried out once."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from deployment_names import MODEL
from tfs_deploy.deployment import records
from tfs_deploy.deployment.records import Action, version_at
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.errors import InvalidInput, Refused
from tfs_deploy.jsonable import to_json


def test_a_record_of_the_old_form_is_read_with_its_idempotency_key(bench):
    bench.promoted("good one")
    next_number = len(records.history(bench.store.documents, "default", MODEL)) + 1
    key = f"groups/default/records/{MODEL}/{next_number:010d}.json"
    current = replace(records.new_record(bench.session, MODEL, Action.ROLLED_BACK, 1), sequence=next_number)
    old = {**json.loads(to_json(current)), "request": "run 7, task rollback"}
    del old["idempotency_key"]
    bench.store.documents.write(key, json.dumps(old).encode(), expected=None)
    read = records.history(bench.store.documents, "default", MODEL)[-1]
    assert (read.action, read.idempotency_key) == (Action.ROLLED_BACK, "run 7, task rollback")
    assert records.find_by_key(bench.session, MODEL, "run 7, task rollback") == read


def test_what_served_follows_the_record(bench):
    start = bench.clock.now()
    bench.clock.advance(10)
    old = bench.promoted("good one")
    between = bench.clock.now()
    bench.clock.advance(10)
    new = bench.promoted("good two")
    documents = bench.store.documents
    assert version_at(documents, "default", MODEL, start).version is None
    assert version_at(documents, "default", MODEL, between).version == old
    served = version_at(documents, "default", MODEL, bench.clock.now())
    assert (served.version, served.actor) == (new, "a test")
    with pytest.raises(InvalidInput, match="time zone"):
        version_at(documents, "default", MODEL, start.replace(tzinfo=None))


def test_a_rollback_that_is_asked_for_again_by_its_retry_does_not_go_forward(bench):
    old, new = bench.promoted("good one"), bench.promoted("good two")
    first = rollback(bench.session, MODEL, idempotency_key="run 7, task rollback")
    assert rollback(bench.session, MODEL, idempotency_key="run 7, task rollback") == first
    assert bench.answers() == [old, old]
    rollback(bench.session, MODEL, idempotency_key="run 8, task rollback")
    assert bench.answers() == [new, new]


def test_a_retry_after_somebody_else_has_moved_stable_changes_nothing(bench):
    bench.promoted("good one")
    bench.promoted("good two")
    rollback(bench.session, MODEL, idempotency_key="run 7, task rollback")
    newest = bench.promoted("good three")
    with pytest.raises(Refused, match=r"was carried out at .* has moved `stable` to version 3 since"):
        rollback(bench.session, MODEL, idempotency_key="run 7, task rollback")
    assert bench.answers() == [newest, newest]


def test_a_late_retry_of_a_promotion_does_not_undo_the_next_one(bench):
    bench.promoted("good one")
    version = bench.validated("good two")
    done = promote(bench.session, MODEL, version, idempotency_key="run 7, task promote")
    assert promote(bench.session, MODEL, version, idempotency_key="run 7, task promote") == done
    newest = bench.promoted("good three")
    with pytest.raises(Refused, match="has moved `stable` to version 3 since"):
        promote(bench.session, MODEL, version, idempotency_key="run 7, task promote")
    assert bench.answers() == [newest, newest]
    assert promote(bench.session, MODEL, version, idempotency_key="run 8, task promote").version == version
