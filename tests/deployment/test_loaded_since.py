"""Since when each replica holds a version: one document per version, merged replica by replica."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from deployment_names import MODEL
from tfs_deploy.deployment import loaded_since

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def test_a_later_load_on_one_replica_keeps_the_time_of_the_other(bench) -> None:
    documents = bench.store.documents
    first, second = bench.group.replicas

    loaded_since.save(bench.session, MODEL, 1, {first: NOON, second: NOON})
    loaded_since.save(bench.session, MODEL, 1, {second: NOON + timedelta(hours=1)})

    assert loaded_since.read(documents, "default", MODEL, 1) == {
        first: "2026-01-01T12:00:00+00:00",
        second: "2026-01-01T13:00:00+00:00",
    }
    assert loaded_since.read(documents, "default", MODEL, 2) == {}
    assert documents.list("groups/default/loaded/") == (f"groups/default/loaded/{MODEL}/1.json",)


def test_the_time_of_the_session_is_noted_for_its_replicas(bench) -> None:
    loaded_since.save_now(bench.session, MODEL, 3)
    now = bench.clock.now().isoformat()
    assert loaded_since.read(bench.store.documents, "default", MODEL, 3) == dict.fromkeys(bench.group.replicas, now)


def test_a_wait_that_runs_again_keeps_the_time_of_the_load(bench) -> None:
    first, second = bench.group.replicas
    loaded_since.save_now(bench.session, MODEL, 3, [first])
    loaded = bench.clock.now().isoformat()
    bench.clock.advance(60)

    loaded_since.save_now(bench.session, MODEL, 3)

    times = loaded_since.read(bench.store.documents, "default", MODEL, 3)
    assert times == {first: loaded, second: bench.clock.now().isoformat()}


def test_a_version_that_is_unloaded_leaves_no_document(bench) -> None:
    loaded_since.save_now(bench.session, MODEL, 3)
    loaded_since.delete(bench.store.documents, "default", MODEL, 3)
    loaded_since.delete(bench.store.documents, "default", MODEL, 3)
    assert bench.store.documents.list("groups/default/loaded/") == ()
