"""Step `status`: what a group should serve and what it serves, per model, replica, version and label."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tfs_deploy.deployment import desired_state, loaded_since, records
from tfs_deploy.deployment.desired_state import DesiredModel, DesiredState, LabelMove
from tfs_deploy.deployment.differences import (
    Difference,
    DifferenceKind,
    differences,
    drift_sentence,
    labels_to_ask,
    open_moves,
    ordered,
)
from tfs_deploy.deployment.drift import RESTORE
from tfs_deploy.deployment.replica_status import GroupStatus, observe_models
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import NotFound
from tfs_deploy.names import PLACEHOLDER, check_model_name

# The name of no model: the answer NOT_FOUND proves that the model server is reachable.
_NO_MODEL = "tfs_deploy_status_probe"
# How often a model is compared again because a deployer changed what it should serve during the comparison.
_COMPARISONS = 3


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model: the desired state, the status of each replica, the published versions, and what differs.

    `move` is a move of its labels that has begun. `since` holds for each version that was loaded, by replica, the ISO
    8601 time of it.
    """

    desired: DesiredModel | None
    observed: GroupStatus
    published: tuple[int, ...]
    move: LabelMove | None = None
    since: dict[int, dict[str, str]] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupReport:
    """One serving group.

    `drift` is the first difference in words, empty if no replica that answered differs; `remedy` says what to do.
    """

    group: str
    mode: str
    models: dict[str, ModelReport]
    differences: tuple[Difference, ...]
    drift: str
    remedy: str
    unreachable: tuple[str, ...]


def status(session: GroupSession, model: str | None = None) -> GroupReport:
    """Report on one model or on all that the group knows; raise NotFound for a `model` that is unknown."""
    state = desired_state.read(session.store.documents, session.group)
    recorded = records.models(session.store.documents, session.group.name) if model is None else ()
    names = sorted({*state.models, *recorded}) if model is None else [check_model_name(model)]
    reports = _compare(session, state, names)
    if model is not None:
        _require_known(session, reports[model], model)
    every = ordered(difference for report in reports.values() for difference in report.differences)
    return GroupReport(
        group=session.group.name,
        mode=session.group.mode.value,
        models=reports,
        differences=every,
        drift=drift_sentence(every),
        remedy=_remedy(every),
        unreachable=_unreachable(session, reports),
    )


def _compare(session: GroupSession, state: DesiredState, names: Iterable[str]) -> dict[str, ModelReport]:
    """Compare each model with a desired state that did not change while the replicas were asked."""
    changed, reports = list(names), dict[str, ModelReport]()
    for _ in range(_COMPARISONS):
        reports |= _reports(session, state, changed)
        after = desired_state.read(session.store.documents, session.group)
        changed = [name for name in changed if _desired(after, name) != _desired(state, name)]
        if not changed:
            break
        state = after
    return dict(sorted(reports.items()))


def _desired(state: DesiredState, name: str) -> tuple[DesiredModel | None, LabelMove | None]:
    return state.models.get(name), open_moves(state).get(name)


def _reports(session: GroupSession, state: DesiredState, names: list[str]) -> dict[str, ModelReport]:
    # Before the replicas are asked: a version that is deleted during the sweep was published all the same.
    published = {name: session.store.versions(name) for name in names}
    labels = labels_to_ask(state)
    observed = observe_models(session, dict.fromkeys(names, labels)) if names else {}
    return {name: _report(session, state, observed[name], published[name]) for name in names}


def _report(
    session: GroupSession, state: DesiredState, observed: GroupStatus, published: tuple[int, ...]
) -> ModelReport:
    name = observed.model
    desired, move = _desired(state, name)
    documents, group = session.store.documents, session.group
    versions = desired.versions if desired is not None else ()
    since = {version: loaded_since.read(documents, group.name, name, version) for version in versions}
    since = {version: times for version, times in since.items() if times}
    every = differences(
        desired,
        observed,
        published=published,
        moving=move.labels if move is not None else None,
        unloading=() if desired is None else (*desired.unloading, PLACEHOLDER),
        loaded=since,
    )
    if desired is None:
        # Nothing says which versions it should serve: the group may serve the latest one by itself.
        every = tuple(difference for difference in every if difference.kind is not DifferenceKind.VERSION_FOREIGN)
    return ModelReport(desired, observed, published, move, since, every)


def _unreachable(session: GroupSession, reports: dict[str, ModelReport]) -> tuple[str, ...]:
    """Return the replicas that do not answer, also in a group that has no model yet."""
    statuses = [report.observed for report in reports.values()]
    if not statuses:
        statuses = [*observe_models(session, {_NO_MODEL: ()}).values()]
    return tuple(sorted({replica.target for status in statuses for replica in status.replicas if replica.error}))


def _require_known(session: GroupSession, report: ModelReport, model: str) -> None:
    observed = any(replica.versions or replica.error for replica in report.observed.replicas)
    if report.desired is None and not report.published and not observed:
        raise NotFound(
            f"Neither the store nor a replica of group {session.group.name!r} knows model {model!r}.",
            "Check the name, or publish a version of it.",
        )


def _remedy(every: tuple[Difference, ...]) -> str:
    """Return how to put the group back to the desired state, empty without drift."""
    if not drift_sentence(every):
        return ""
    return RESTORE
