"""The differences between a model's desired state and what its replicas serve: all of them, `stable` first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfs_deploy.deployment.desired_state import DesiredModel, DesiredState, LabelMove
from tfs_deploy.deployment.differences import (
    Difference,
    DifferenceKind,
    differences,
    drift_sentence,
    labels_to_ask,
    ordered,
)
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.deployment.replica_status import GroupStatus, ReplicaStatus
from tfs_deploy.serving.replies import VersionState, VersionStatus

MODEL = "m"
DESIRED = DesiredModel("/models/m", (1, 2, 3), {"stable": 2, "previous": 1})


def replica(
    target: str = "a:1",
    *,
    available: Iterable[int] = (1, 2, 3),
    labels: Mapping[str, int] = DESIRED.labels,
    others: Mapping[int, VersionState] | None = None,
    error: str = "",
) -> ReplicaStatus:
    if error:
        return ReplicaStatus(target, error=error)
    states = {**dict.fromkeys(available, VersionState.AVAILABLE), **(others or {})}
    return ReplicaStatus(target, tuple(VersionStatus(*row) for row in sorted(states.items())), dict(labels))


def compare(
    *replicas: ReplicaStatus,
    desired: DesiredModel | None = DESIRED,
    published: Iterable[int] = (1, 2, 3),
    moving: Mapping[str, int] | None = None,
    unloading: Iterable[int] = (),
    loaded: Iterable[int] = (1, 2),
) -> tuple[Difference, ...]:
    return differences(
        desired,
        GroupStatus(MODEL, replicas),
        published=tuple(published),
        moving=moving,
        unloading=tuple(unloading),
        loaded=tuple(loaded),
    )


def test_a_replica_that_serves_what_is_desired_has_no_difference() -> None:
    assert compare(replica("a:1"), replica("b:1")) == ()
    assert compare(ReplicaStatus("a:1"), desired=None, published=()) == ()


@pytest.mark.parametrize(
    ("status", "kind", "label", "desired", "observed"),
    [
        (replica(labels={"stable": 1, "previous": 1}), "label_on_other_version", "stable", 2, 1),
        (replica(labels={"stable": 2}), "label_missing", "previous", 1, None),
        (replica(labels={**DESIRED.labels, "canary": 3}), "label_not_desired", "canary", None, 3),
        (replica(available=(2, 3)), "version_missing", "", 1, None),
        (replica(available=(2, 3), others={1: VersionState.LOADING}), "version_missing", "", 1, None),
        (replica(available=(1, 2, 3, 9)), "version_foreign", "", None, 9),
        (replica(error="It is away."), "unreachable", "", None, None),
    ],
)
def test_each_kind_of_difference(
    status: ReplicaStatus, kind: str, label: str, desired: int | None, observed: int | None
) -> None:
    (difference,) = compare(status)

    assert difference.kind == DifferenceKind(kind)
    assert (difference.replica, difference.model) == ("a:1", MODEL)
    assert (difference.label, difference.desired, difference.observed) == (label, desired, observed)
    assert "a:1" in difference.sentence
    assert "'m'" in difference.sentence
    assert (label or "version" if kind != "unreachable" else "It is away") in difference.sentence


def test_the_differences_of_all_replicas_are_listed_with_stable_first() -> None:
    listed = compare(
        replica("a:1", available=(2, 9), labels={"stable": 2, "canary": 3}),
        replica("b:1", error="It is away."),
        replica("c:1", labels={}),
    )

    assert [(difference.replica, difference.label or difference.kind.value) for difference in listed] == [
        ("c:1", "stable"),
        ("a:1", "canary"),
        ("a:1", "previous"),
        ("c:1", "previous"),
        ("a:1", "version_missing"),
        ("a:1", "version_foreign"),
        ("b:1", "unreachable"),
    ]
    sentence = drift_sentence(listed)
    assert sentence.startswith("Replica c:1 has drifted")
    assert sentence.endswith("answers nothing, and 5 more differences.")


def test_drift_is_empty_where_no_replica_that_answered_differs() -> None:
    assert drift_sentence(compare(replica("a:1"), replica("b:1", error="It is away."))) == ""
    assert drift_sentence(()) == ""


def test_the_labels_of_an_open_move_may_answer_as_before_it_or_as_after_it() -> None:
    moving = {"stable": 3, "previous": 2, "canary": 3}
    before, after = replica("a:1"), replica("b:1", available=(1, 2, 3), labels=moving)

    assert compare(before, after, moving=moving) == ()
    (difference,) = compare(replica(labels={"stable": 1, "previous": 1}), moving=moving)
    assert (difference.label, difference.observed) == ("stable", 1)
    (difference,) = compare(replica(labels={**DESIRED.labels, "canary": 1}), moving=moving)
    assert (difference.kind, difference.desired) == (DifferenceKind.LABEL_ON_OTHER_VERSION, 3)


def test_a_move_that_removes_a_label_may_have_removed_it() -> None:
    moving = {"stable": 2}
    assert compare(replica(), replica("b:1", labels=moving), moving=moving) == ()
    assert [d.label for d in compare(replica(labels={"previous": 1}), moving=moving)] == ["stable"]


def test_a_version_that_is_about_to_be_unloaded_is_not_foreign() -> None:
    assert compare(replica(available=(1, 2, 3, 7)), published=(1, 2, 3, 7)) == ()
    assert compare(replica(available=(1, 2, 3, 7)), unloading=(7,)) == ()
    assert compare(replica(available=(7,), labels={}), desired=None, published=(7,), loaded=()) == ()


def test_a_version_that_is_still_loading_is_not_missing() -> None:
    assert compare(replica(available=(1, 2), others={3: VersionState.LOADING})) == ()
    assert compare(replica(available=(1, 2))) == ()


def test_a_placeholder_version_is_no_difference_while_it_is_desired() -> None:
    desired = DesiredModel("/models/m", (0, 1), {})
    status = replica(available=(0,), labels={})
    assert compare(status, desired=desired, published=(1,), loaded=()) == ()
    left = DesiredModel("/models/m", (1,), {})
    (difference,) = compare(status, desired=left, published=(1,), loaded=())
    assert (difference.kind, difference.observed) == (DifferenceKind.VERSION_FOREIGN, 0)


def test_the_labels_of_every_model_and_the_well_known_ones_are_asked_for() -> None:
    record = DeploymentRecord(0, "2026-01-01T00:00:00+00:00", "g", "n", Action.LABELLED, 1, "ann")
    moving = LabelMove({"blue": 1, "green": 1}, record)
    state = DesiredState(1, {MODEL: DESIRED, "n": DesiredModel("/models/n", (1,), {"blue": 1}, moving)})
    assert labels_to_ask(state) == ("blue", "canary", "green", "previous", "stable")
    assert labels_to_ask(DesiredState()) == ("canary", "previous", "stable")


LABELS = st.dictionaries(st.sampled_from(["stable", "previous", "canary", "blue"]), st.integers(1, 4))
VERSIONS = st.frozensets(st.integers(1, 6))


@given(desired=LABELS, versions=VERSIONS, answers=LABELS, available=VERSIONS, loaded=VERSIONS, published=VERSIONS)
def test_there_is_a_difference_exactly_where_desired_and_observed_differ(
    desired: dict[str, int],
    versions: frozenset[int],
    answers: dict[str, int],
    available: frozenset[int],
    loaded: frozenset[int],
    published: frozenset[int],
) -> None:
    listed = compare(
        replica(available=available, labels=answers),
        desired=DesiredModel("/models/m", tuple(sorted(versions)), desired),
        published=published,
        loaded=loaded,
    )

    by_label = {
        difference.label: (difference.desired, difference.observed) for difference in listed if difference.label
    }
    assert by_label == {
        label: (desired.get(label), answers.get(label))
        for label in desired.keys() | answers.keys()
        if desired.get(label) != answers.get(label)
    }
    missing = {d.desired for d in listed if d.kind is DifferenceKind.VERSION_MISSING}
    foreign = {d.observed for d in listed if d.kind is DifferenceKind.VERSION_FOREIGN}
    assert missing == (versions & loaded) - available
    assert foreign == available - versions - published
    assert listed == ordered(reversed(listed))
