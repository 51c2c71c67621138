"""Labels besides `stable` and `previous`: set on what passed its gates, moved on all replicas or on none, removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deployment.conftest import Workbench, make_bench
from deployment.fuse import Fuse, Killed, fused
from deployment_names import MODEL
from fakes import FakeClient
from tfs_deploy.deployment import desired_state, records
from tfs_deploy.deployment.modes import steps_of
from tfs_deploy.deployment.records import Action
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.label import remove_label, set_label
from tfs_deploy.deployment.steps.load import load
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.reject import reject
from tfs_deploy.deployment.steps.retire import retire
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.errors import Drift, InvalidInput, NotFound, Refused, TFSDeployError
from tfs_deploy.serving.config import from_text
from tfs_deploy.serving.group import Mode


def on_replicas(bench: Workbench, label: str) -> list[int | None]:
    return [server.labels.get(MODEL, {}).get(label) for server in bench.servers]


def desired_labels(bench: Workbench) -> dict[str, int]:
    return dict(desired_state.read(bench.store.documents, bench.group).labels(MODEL))


def in_startup_file(bench: Workbench) -> dict[str, int]:
    (entry,) = from_text((bench.folder / "models.config").read_text())
    return dict(entry.labels)


def labelled_records(bench: Workbench) -> list[tuple[str, int, int | None]]:
    entries = records.history(bench.store.documents, "default", MODEL)
    return [(each.label, each.version, each.previous) for each in entries if each.action is Action.LABELLED]


@pytest.fixture
def live(bench: Workbench) -> Workbench:
    """A group with version 1 live and version 2 validated."""
    bench.promoted("good one")
    bench.validated("good two")
    return bench


def test_a_label_is_set_everywhere_and_recorded(live: Workbench) -> None:
    record = set_label(live.session, MODEL, "canary", 2)
    assert (record.label, record.version, record.previous) == ("canary", 2, None)
    assert "passed" in record.reason
    assert on_replicas(live, "canary") == [2, 2]
    assert live.stable() == [1, 1]
    assert desired_labels(live) == in_startup_file(live) == {"stable": 1, "canary": 2}
    assert labelled_records(live) == [("canary", 2, None)]


def test_a_label_moves_and_is_removed(live: Workbench) -> None:
    set_label(live.session, MODEL, "canary", 2)
    assert set_label(live.session, MODEL, "canary", 1, reason="back").previous == 2
    removed = remove_label(live.session, MODEL, "canary")
    assert removed is not None
    assert (removed.version, removed.previous) == (0, 1)
    assert on_replicas(live, "canary") == [None, None]
    assert live.answers() == [1, 1]
    assert desired_labels(live) == in_startup_file(live) == {"stable": 1}
    assert labelled_records(live) == [("canary", 2, None), ("canary", 1, 2), ("canary", 0, 1)]


def test_the_same_request_again_changes_nothing(live: Workbench) -> None:
    set_label(live.session, MODEL, "canary", 2)
    generation = desired_state.read(live.store.documents, live.group).generation
    assert set_label(live.session, MODEL, "canary", 2).sequence == 0
    assert desired_state.read(live.store.documents, live.group).generation == generation
    assert remove_label(live.session, MODEL, "canary") is not None
    assert remove_label(live.session, MODEL, "canary") is None
    assert remove_label(live.session, "unknown", "canary") is None
    assert len(labelled_records(live)) == 2


def test_other_labels_survive_a_promotion_and_a_rollback(live: Workbench) -> None:
    set_label(live.session, MODEL, "canary", 2)
    promote(live.session, MODEL, 2)
    rollback(live.session, MODEL)
    assert desired_labels(live) == {"stable": 1, "previous": 2, "canary": 2}
    assert on_replicas(live, "canary") == [2, 2]


def test_what_a_label_names_is_neither_rejected_nor_retired(live: Workbench) -> None:
    set_label(live.session, MODEL, "canary", 2)
    with pytest.raises(Refused, match="canary"):
        reject(live.session, MODEL, 2, reason="a mistake")
    promote(live.session, MODEL, 2)
    live.promoted("good three")
    live.promoted("good four")
    assert retire(live.session, MODEL, keep=0).retired == (1,)
    remove_label(live.session, MODEL, "canary")
    assert retire(live.session, MODEL, keep=0).retired == (2,)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("stable", r"`stable`|'stable' is reserved.*tfs-deploy promote half_plus_two"),
        ("previous", r"'previous' is reserved.*tfs-deploy rollback half_plus_two"),
        ("2", "named like a version"),
        ("007", "named like a version"),
        ("a-b", "label 'a-b' is not usable"),
        ("", "label '' is not usable"),
    ],
)
@pytest.mark.parametrize("step", [lambda *of: set_label(*of, 2), remove_label], ids=["set", "remove"])
def test_a_label_that_is_not_free_is_refused(
    live: Workbench, step: Callable[..., object], label: str, message: str
) -> None:
    before = desired_labels(live)
    with pytest.raises(InvalidInput, match=message):
        step(live.session, MODEL, label)
    assert desired_labels(live) == before


def test_only_a_version_that_is_loaded_and_passed_its_gates_gets_a_label(live: Workbench) -> None:
    third = live.publish("good three")
    with pytest.raises(Refused, match="is not loaded"):
        set_label(live.session, MODEL, "canary", third)
    load(live.session, MODEL, third)
    with pytest.raises(Refused, match="was never validated"):
        set_label(live.session, MODEL, "canary", third)
    with pytest.raises(NotFound):
        set_label(live.session, MODEL, "canary", 99)
    wrong = live.validated("wrong")
    with pytest.raises(Refused, match="golden"):
        set_label(live.session, MODEL, "canary", wrong)
    assert desired_labels(live) == {"stable": 1}


def test_a_label_that_was_set_by_hand_is_drift(live: Workbench) -> None:
    live.servers[1].labels[MODEL]["canary"] = 1
    with pytest.raises(Drift, match="canary"):
        set_label(live.session, MODEL, "canary", 2)
    assert on_replicas(live, "canary") == [None, 1]


def test_after_an_error_every_replica_is_put_back(live: Workbench) -> None:
    set_label(live.session, MODEL, "canary", 1)
    live.servers[1].fail_next("HandleReloadConfigRequest", "INTERNAL", "boom")
    with pytest.raises(TFSDeployError, match="boom"):
        set_label(live.session, MODEL, "canary", 2)
    assert on_replicas(live, "canary") == [1, 1]
    assert desired_labels(live) == {"stable": 1, "canary": 1}
    assert labelled_records(live) == [("canary", 1, None)]
    set_label(live.session, MODEL, "canary", 2)
    assert on_replicas(live, "canary") == [2, 2]


def test_requests_under_stable_and_canary_are_answered_by_their_versions(live: Workbench) -> None:
    set_label(live.session, MODEL, "canary", 2)
    client = FakeClient(live.servers[0])
    assert client.metadata(MODEL, label="canary", timeout=1.0).version == 2
    assert client.metadata(MODEL, label="stable", timeout=1.0).version == 1


@pytest.mark.faults
@pytest.mark.parametrize("removing", [False, True], ids=["set", "remove"])
def test_killed_before_any_operation_a_plain_rerun_converges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Callable[[str], None], removing: bool
) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)

    def step(session: GroupSession) -> None:
        if removing:
            remove_label(session, MODEL, "canary")
        else:
            set_label(session, MODEL, "canary", 2)

    for at in range(1000):
        folder = tmp_path / str(at)
        folder.mkdir()
        bench = make_bench(folder)
        bench.promoted("good one")
        bench.validated("good two")
        set_label(bench.session, MODEL, "canary", 1)

        def watch(bench: Workbench = bench) -> None:
            assert bench.answers() == [1, 1]

        try:
            step(fused(bench.session, Fuse(at, watch)))
        except Killed:
            step(fused(bench.session, Fuse(10_000, watch)))
            ended = False
        else:
            ended = True
        wanted = {} if removing else {"canary": 2}
        assert on_replicas(bench, "canary") == [wanted.get("canary")] * 2
        assert desired_labels(bench) == in_startup_file(bench) == {"stable": 1, **wanted}
        assert labelled_records(bench) == [("canary", 1, None), ("canary", wanted.get("canary", 0), 1)]
        if ended:
            break
    assert at > 10, "the fuse was not in the way of the step"
    tell(f"{'removal' if removing else 'move'} of a label: killed before {at} operations, 0 violations")


def test_a_group_that_serves_the_latest_version_has_no_labels(tmp_path: Path) -> None:
    session = make_bench(tmp_path, mode=Mode.LATEST).session
    with pytest.raises(Refused, match="serves the latest version by itself"):
        steps_of(session).set_label(session, MODEL, "canary", 1)
    with pytest.raises(Refused, match="serves the latest version by itself"):
        steps_of(session).remove_label(session, MODEL, "canary")
