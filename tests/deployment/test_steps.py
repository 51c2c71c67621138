"""The steps of a deploy on a group in memory: what each leaves behind, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployment_names import MODEL
from fakes import FakeVersion
from tfs_deploy.deployment import desired_state, validation_results
from tfs_deploy.deployment.lease import group_lease, hold
from tfs_deploy.deployment.records import Action, history
from tfs_deploy.deployment.steps.load import load, wait_until_available
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.publish import publish
from tfs_deploy.deployment.steps.reject import reject
from tfs_deploy.deployment.steps.retire import retire
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.deployment.steps.status import status
from tfs_deploy.deployment.steps.validate import validate
from tfs_deploy.errors import (
    Contention,
    Drift,
    InvalidInput,
    LoadFailed,
    LoadInterrupted,
    ModelServerError,
    NotFound,
    Refused,
    StoreError,
    Unreachable,
)
from tfs_deploy.serving.config import from_text
from tfs_deploy.validation.config import Gates
from tfs_deploy.validation.report import Verdict


def test_a_good_version_is_promoted_on_every_replica(bench):
    version = bench.promoted("good one")
    assert bench.stable() == [version, version]
    assert bench.answers() == [version, version]
    entries = from_text(Path(bench.group.startup_config).read_text())
    assert entries[0].labels == {"stable": version}


def test_the_same_bytes_are_one_version_and_one_promotion(bench):
    first = bench.promoted("good one")
    again = bench.promoted("good one")
    assert again == first
    actions = [entry.action for entry in history(bench.store.documents, "default", MODEL)]
    assert actions.count(Action.PUBLISHED) == 1
    assert actions.count(Action.PROMOTED) == 1


def test_promotion_keeps_the_old_version_loaded_as_previous(bench):
    old, new = bench.promoted("good one"), bench.promoted("good two")
    assert bench.servers[0].labels[MODEL] == {"stable": new, "previous": old}
    assert bench.servers[0].state(MODEL, old) == "AVAILABLE"


def test_rollback_swaps_and_forward_swaps_again(bench):
    old, new = bench.promoted("good one"), bench.promoted("good two")
    before = len(bench.servers[0].requests)
    assert rollback(bench.session, MODEL).version == old
    asked = [name for name, _ in bench.servers[0].requests[before:]]
    # README and docs/architecture.md state this cost: the versions, one reload, and the answer of each label.
    assert asked == ["GetModelStatus", "HandleReloadConfigRequest", "GetModelMetadata", "GetModelMetadata"]
    assert bench.answers() == [old, old]
    assert rollback(bench.session, MODEL).version == new
    assert bench.answers() == [new, new]


def test_a_version_with_wrong_answers_is_refused_and_stable_stays(bench):
    old = bench.promoted("good one")
    bad = bench.validated("wrong")
    report = validation_results.read(bench.store.documents, "default", MODEL, bad)
    assert report.verdict is Verdict.FAIL
    assert "golden" in report.reason()
    with pytest.raises(Refused, match="golden"):
        promote(bench.session, MODEL, bad)
    assert bench.answers() == [old, old]
    reject(bench.session, MODEL, bad, reason=report.reason())
    assert bench.servers[0].state(MODEL, bad) == "END"
    assert bench.store.versions(MODEL) == (old,)


def test_nothing_is_promoted_without_a_validation(bench):
    version = bench.publish("good one")
    load(bench.session, MODEL, version)
    wait_until_available(bench.session, MODEL, version)
    with pytest.raises(Refused, match="never validated"):
        promote(bench.session, MODEL, version)
    assert bench.stable() == [None, None]


def test_a_replica_that_joined_after_the_validation_blocks_the_promotion(bench, make, tmp_path):
    version = bench.validated("good one")
    report = validation_results.read(bench.store.documents, "default", MODEL, version)
    with pytest.raises(Refused, match="not validated on replica late:8500"):
        validation_results.require(
            bench.session,
            MODEL,
            version,
            fingerprint=report.fingerprint,
            replicas=(*bench.group.replicas, "late:8500"),
        )


def test_a_broken_version_fails_its_wait_with_the_servers_words(bench):
    old = bench.promoted("good one")
    broken = bench.publish("broken")
    load(bench.session, MODEL, broken)
    with pytest.raises(LoadFailed, match="does not appear to contain a SavedModel"):
        wait_until_available(bench.session, MODEL, broken)
    reject(bench.session, MODEL, broken, reason="it does not load")
    assert bench.answers() == [old, old]
    assert bench.promoted("good two") > broken, "the number of a failed version is not used again"


def test_a_broken_first_version_leaves_an_empty_config(bench):
    broken = bench.publish("broken")
    load(bench.session, MODEL, broken)
    with pytest.raises(LoadFailed):
        wait_until_available(bench.session, MODEL, broken)
    reject(bench.session, MODEL, broken, reason="it does not load")
    assert bench.promoted("good one") == broken + 1


def test_one_replica_that_refuses_the_move_puts_all_back(bench):
    old = bench.promoted("good one")
    new = bench.validated("good two")
    bench.servers[1].fail_next("HandleReloadConfigRequest", "INTERNAL", "boom")
    with pytest.raises(ModelServerError, match="labels from before"):
        promote(bench.session, MODEL, new)
    assert bench.answers() == [old, old]
    actions = [entry.action for entry in history(bench.store.documents, "default", MODEL)]
    assert actions[-1] is Action.PUT_BACK
    assert promote(bench.session, MODEL, new).version == new
    assert bench.answers() == [new, new]


def test_a_replica_that_dies_during_the_move_is_put_back_by_the_next_step(bench):
    old = bench.promoted("good one")
    new = bench.validated("good two")
    held = bench.servers[1]
    original = held.handle

    def die_on_reload(method, request):
        if method.name == "HandleReloadConfigRequest":
            held.unreachable = True
        return original(method, request)

    held.handle = die_on_reload
    with pytest.raises(Unreachable):
        promote(bench.session, MODEL, new)
    held.handle = original
    held.unreachable = False
    version = bench.publish("good three")
    load(bench.session, MODEL, version)
    assert bench.answers() == [old, old]


def test_drift_stops_a_load_and_promoting_the_stable_version_heals_it(bench):
    old, new = bench.promoted("good one"), bench.promoted("good two")
    bench.servers[0].labels[MODEL]["stable"] = old
    version = bench.publish("good three")
    with pytest.raises(Drift, match=rf"'stable' should answer version {new} and answers {old}"):
        load(bench.session, MODEL, version)
    promote(bench.session, MODEL, new)
    assert bench.answers() == [new, new]
    load(bench.session, MODEL, version)


def test_a_replica_that_restarted_empty_is_healed_without_a_dangling_label(bench):
    version = bench.promoted("good one")
    empty = type(bench.servers[0])(bench.servers[0].target, discover=bench.servers[0]._discover)
    bench.servers[0] = empty
    from fakes import FakeClient

    bench.session.clients[empty.target] = FakeClient(empty)
    assert "drifted" in status(bench.session).drift
    promote(bench.session, MODEL, version)
    assert bench.answers() == [version, version]
    assert status(bench.session).drift == ""


def test_a_model_that_was_served_before_is_not_taken_over_silently(bench):
    bench.servers[0].put(bench.group.base_path(MODEL), 7)
    bench.session.clients[bench.servers[0].target].reload(_config(bench, 7), timeout=1.0)
    version = bench.publish("good one")
    assert version == 8, "a number that a replica remembers is not free"
    with pytest.raises(Drift, match="already serves versions"):
        load(bench.session, MODEL, version)


def test_an_existing_startup_file_is_the_first_desired_state(bench):
    bench.servers[0].put(bench.group.base_path(MODEL), 7)
    bench.servers[1].put(bench.group.base_path(MODEL), 7)
    from tfs_deploy.serving.config import ModelEntry, to_text

    entry = ModelEntry(MODEL, bench.group.base_path(MODEL), (7,), {"stable": 7})
    Path(bench.group.startup_config).write_text(to_text([entry]))
    for server in bench.servers:
        bench.session.clients[server.target].reload(_config(bench, 7), timeout=1.0)
        server.labels[MODEL] = {"stable": 7}
    assert bench.promoted("good one") == 8
    assert bench.servers[0].labels[MODEL] == {"stable": 8, "previous": 7}


def test_a_load_that_lacked_memory_is_tried_again(bench):
    bench.promoted("good one")
    version = bench.publish("good two")
    for server in bench.servers:
        server.put(bench.group.base_path(MODEL), version, FakeVersion(broken="OOM", error_code="RESOURCE_EXHAUSTED"))
    load(bench.session, MODEL, version)
    with pytest.raises(LoadInterrupted):
        wait_until_available(bench.session, MODEL, version)
    for server in bench.servers:
        server.remove(bench.group.base_path(MODEL), version)
    load(bench.session, MODEL, version)
    wait_until_available(bench.session, MODEL, version)
    assert {server.state(MODEL, version) for server in bench.servers} == {"AVAILABLE"}


def test_retire_keeps_what_is_live_labelled_or_recent(bench):
    versions = [bench.promoted(f"good {number}") for number in range(1, 6)]
    plan = retire(bench.session, MODEL, keep=1, dry_run=True)
    assert plan.retired == (versions[0], versions[1])
    assert bench.store.versions(MODEL) == tuple(versions), "a dry run deletes nothing"
    assert retire(bench.session, MODEL, keep=1).retired == (versions[0], versions[1])
    assert bench.store.versions(MODEL) == tuple(versions[2:])
    assert bench.servers[0].state(MODEL, versions[0]) == "END"
    assert bench.answers() == [versions[-1]] * 2
    assert retire(bench.session, MODEL, keep=1).retired == ()


def test_a_labelled_version_is_never_rejected(bench):
    old, new = bench.promoted("good one"), bench.promoted("good two")
    for version in (old, new):
        with pytest.raises(Refused, match="carries the label"):
            reject(bench.session, MODEL, version, reason="a mistake")
    assert bench.store.versions(MODEL) == (old, new)


def test_rollback_to_a_version_that_is_not_loaded_is_refused(bench):
    versions = [bench.promoted(f"good {number}") for number in range(1, 4)]
    published = bench.publish("good 4")
    with pytest.raises(Refused, match="not loaded"):
        rollback(bench.session, MODEL, to=published)
    retire(bench.session, MODEL, keep=0)
    with pytest.raises(NotFound, match="no complete version"):
        rollback(bench.session, MODEL, to=versions[0])
    with pytest.raises(NotFound):
        promote(bench.session, MODEL, versions[0])


def test_rollback_needs_something_to_go_back_to(bench):
    with pytest.raises(NotFound, match="no stable version"):
        rollback(bench.session, MODEL)
    bench.promoted("good one")
    with pytest.raises(NotFound, match="no previous version"):
        rollback(bench.session, MODEL)


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "", "x" * 128, "a b"])
def test_a_bad_model_name_changes_nothing(bench, name):
    before = sorted(str(path) for path in (bench.folder / "store").rglob("*"))
    with pytest.raises(InvalidInput, match="model name"):
        publish(bench.session, bench.staged("good one"), name)
    assert sorted(str(path) for path in (bench.folder / "store").rglob("*")) == before


def test_a_version_that_is_not_in_the_store_is_not_loaded(bench):
    with pytest.raises(NotFound):
        load(bench.session, MODEL, 99)
    assert bench.servers[0].requests == []


def test_an_unreachable_replica_stops_before_anything_is_sent(bench):
    version = bench.publish("good one")
    bench.servers[1].unreachable = True
    with pytest.raises(Unreachable, match="replica-2:8500"):
        load(bench.session, MODEL, version)
    assert "HandleReloadConfigRequest" not in [name for name, _ in bench.servers[0].requests]


def test_a_validation_with_an_unreachable_replica_is_inconclusive(bench):
    version = bench.publish("good one")
    load(bench.session, MODEL, version)
    bench.servers[1].unreachable = True
    report = validate(bench.session, MODEL, version, Gates())
    assert report.verdict is Verdict.INCONCLUSIVE
    bench.servers[1].unreachable = False
    with pytest.raises(Refused, match="could not be decided"):
        promote(bench.session, MODEL, version)


def test_a_second_deployer_waits_for_the_first(bench):
    version = bench.publish("good one")
    with hold(group_lease(bench.session, "a long job")) as lease:
        assert lease
        # The clock of this test moves only when somebody sleeps, so the holder's lease runs out while others wait.
        load(bench.session, MODEL, version)
        with pytest.raises(Contention, match="ran out"):
            lease.check()


def test_other_models_of_the_group_keep_their_config(bench):
    first = bench.promoted("good one")
    other = publish(bench.session, bench.staged("good other"), "other").version.version
    load(bench.session, "other", other)
    wait_until_available(bench.session, "other", other)
    validate(bench.session, "other", other, Gates())
    promote(bench.session, "other", other)
    assert bench.answers() == [first, first]
    state = desired_state.read(bench.store.documents, bench.group)
    assert set(state.models) == {MODEL, "other"}


def _config(bench, version):
    from tfs_deploy.serving.config import ModelEntry, to_proto

    return to_proto([ModelEntry(MODEL, bench.group.base_path(MODEL), (version,), {})])


def test_a_start_up_file_that_cannot_be_written_is_told_and_does_not_stop_going_back(bench):
    old = bench.promoted("good one")
    new = bench.validated("good two")
    away = replace(bench.session, group=replace(bench.group, startup_config=str(bench.folder / "absent" / "config")))
    with pytest.raises(StoreError, match="start-up config file"):
        promote(away, MODEL, new)
    assert bench.answers() == [new, new]
    with pytest.raises(StoreError, match="start-up config file"):
        rollback(away, MODEL)
    assert bench.answers() == [old, old]
    assert desired_state.read(bench.store.documents, bench.group).models[MODEL].move is None


def test_an_inconclusive_look_does_not_undo_a_pass(bench):
    old, new = bench.promoted("good one"), bench.promoted("good two")
    bench.servers[1].unreachable = True
    assert validate(bench.session, MODEL, old, Gates()).verdict is Verdict.INCONCLUSIVE
    bench.servers[1].unreachable = False
    assert rollback(bench.session, MODEL).version == old
    assert bench.answers() == [old, old]
    assert new > old


def test_gates_that_do_not_fit_are_told_before_anything_is_published(bench, tmp_path):
    from tfs_deploy.deployment.modes.labels import deploy
    from tfs_deploy.validation.config import gates_from

    np.savez(tmp_path / "text.npz", x=np.zeros(2, np.float32), labels=np.array(["a", "b"]))
    for name in ("absent.npz", "text.npz"):
        gates = gates_from({"accuracy": {"file": str(tmp_path / name)}})
        with pytest.raises(InvalidInput, match=name):
            deploy(bench.session, bench.staged("good one"), MODEL, gates)
    assert bench.store.versions(MODEL) == ()


def test_unknown_models_are_told(bench):
    with pytest.raises(NotFound, match="nobody"):
        retire(bench.session, "nobody")
    with pytest.raises(NotFound, match="nobody"):
        status(bench.session, "nobody")
    bench.servers[1].unreachable = True
    assert status(bench.session).unreachable == ("replica-2:8500",)
