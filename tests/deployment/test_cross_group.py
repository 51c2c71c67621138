"""Several serving groups on one store: none takes from another what is live there or needed for its rollback (I5)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployment_names import MODEL
from fakes import FakeClient, FakeModelServer
from tfs_deploy.deployment import records
from tfs_deploy.deployment.records import Action, history
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.load import load, wait_until_available
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.publish import publish
from tfs_deploy.deployment.steps.reject import reject
from tfs_deploy.deployment.steps.retire import retire
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.deployment.steps.validate import validate
from tfs_deploy.errors import Refused
from tfs_deploy.serving.group import Mode
from tfs_deploy.validation.config import Gates


@pytest.fixture
def staging(bench) -> GroupSession:
    """Return another group with a replica of its own on the store of `bench`."""
    server = FakeModelServer("staging-1:8500", discover=bench.servers[0]._discover)
    group = replace(bench.group, name="staging", replicas=(server.target,), startup_config=None)
    return replace(bench.session, group=group, clients={server.target: FakeClient(server)})


def go(session: GroupSession, version: int) -> None:
    load(session, MODEL, version)
    wait_until_available(session, MODEL, version)
    validate(session, MODEL, version, Gates())
    promote(session, MODEL, version)


def test_a_retirement_leaves_the_files_of_what_another_group_serves_or_needs_for_rollback(bench, staging):
    old, live = bench.promoted("good 1"), bench.promoted("good 2")
    newer = [bench.publish(f"good {number}") for number in range(3, 6)]
    for version in (old, live, *newer):
        go(staging, version)
    assert retire(staging, MODEL, keep=0, dry_run=True).retired == (newer[0],)
    assert retire(staging, MODEL, keep=0).retired == (newer[0],)
    assert bench.store.versions(MODEL) == (old, live, *newer[1:])
    assert staging.clients["staging-1:8500"].status(MODEL, live, timeout=1.0)[0].state.value == "END"
    assert bench.answers() == [live, live]
    assert rollback(bench.session, MODEL).version == old
    assert bench.answers() == [old, old]


def test_what_no_group_holds_any_more_goes_with_the_next_retirement(bench, staging):
    versions = [bench.promoted(f"good {number}") for number in range(1, 4)]
    for version in versions:
        go(staging, version)
    assert retire(staging, MODEL, keep=0).retired == ()
    assert retire(bench.session, MODEL, keep=0).retired == (versions[0],)
    assert bench.store.versions(MODEL) == tuple(versions[1:])


def test_a_version_that_another_group_serves_is_rejected_in_this_one_only(bench, staging):
    live = bench.promoted("good 1")
    load(staging, MODEL, live)
    validate(staging, MODEL, live, Gates())
    reject(staging, MODEL, live, reason="too slow for staging")
    assert bench.store.versions(MODEL) == (live,)
    assert bench.answers() == [live, live]
    assert [entry.action for entry in history(bench.store.documents, "staging", MODEL)][-1] is Action.REJECTED
    load(staging, MODEL, live)
    with pytest.raises(Refused, match="never validated"):
        promote(staging, MODEL, live)


def test_versions_of_a_group_in_mode_latest_are_known_by_its_record(bench, staging):
    latest = replace(bench.session, group=replace(bench.group, name="latest", mode=Mode.LATEST, startup_config=None))
    versions = [bench.publish(f"good {number}") for number in range(1, 5)]
    for previous, version in ((None, versions[0]), (versions[0], versions[1])):
        records.append(
            bench.store.documents, records.new_record(latest, MODEL, Action.PROMOTED, version, previous=previous)
        )
    go(staging, versions[3])
    assert retire(staging, MODEL, keep=0).retired == (versions[2],)


def test_a_slip_in_the_groups_name_does_not_unload_what_the_replicas_serve(bench):
    live = bench.promoted("good 1")
    slip = replace(bench.session, group=replace(bench.group, name="defautl", startup_config=None))
    other = publish(slip, bench.staged("good other"), "other").version.version
    with pytest.raises(Refused, match=r"serves model 'half_plus_two' of group 'default'.*Name group 'default'"):
        load(slip, "other", other)
    assert bench.answers() == [live, live]
