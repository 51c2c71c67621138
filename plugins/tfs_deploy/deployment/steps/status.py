"""Step `status`: what a group should serve and what it serves, per model, replica, version and label."""

from __future__ import annotations

from dataclasses import dataclass

from tfs_deploy.deployment import desired_state, records
from tfs_deploy.deployment.desired_state import DesiredModel, DesiredState, LabelMove
from tfs_deploy.deployment.drift import require_no_drift
from tfs_deploy.deployment.replica_status import GroupStatus, observe_leniently
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import Drift, NotFound, TFSDeployError
from tfs_deploy.names import check_model_name

# The name of no model: the answer NOT_FOUND proves that the model server is reachable.
_NO_MODEL = "tfs_deploy_status_probe"


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model: the desired state, the status of each replica, and the published versions."""

    desired: DesiredModel | None
    observed: GroupStatus
    published: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GroupReport:
    """One serving group; `drift` is empty if every replica serves what it should."""

    group: str
    mode: str
    models: dict[str, ModelReport]
    move: LabelMove | None
    drift: str
    unreachable: tuple[str, ...]


def status(session: GroupSession, model: str | None = None) -> GroupReport:
    """Report on one model or on all that the group knows; raise NotFound for a `model` that is unknown."""
    state = desired_state.read(session.store.documents, session.group).state
    recorded = records.models(session.store.documents, session.group.name)
    names = sorted({*state.models, *recorded}) if model is None else [check_model_name(model)]
    reports = {name: _report(session, state, name) for name in names}
    if model is not None:
        _require_known(session, reports[model], model)
    unreachable = _unreachable(session, reports)
    drift = "" if unreachable else _drift(session, state)
    return GroupReport(session.group.name, session.group.mode.value, reports, state.move, drift, unreachable)


def _unreachable(session: GroupSession, reports: dict[str, ModelReport]) -> tuple[str, ...]:
    """Return the replicas that do not answer, also in a group that has no model yet."""
    errors = {replica.target for report in reports.values() for replica in report.observed.replicas if replica.error}
    if not reports:
        answers = session.gather_results(lambda client: client.status(_NO_MODEL, timeout=session.timeouts.status))
        errors = {target for target, answer in answers.items() if isinstance(answer, TFSDeployError)}
    return tuple(sorted(errors))


def _report(session: GroupSession, state: DesiredState, name: str) -> ModelReport:
    labels = {*state.labels(name), desired_state.STABLE, desired_state.PREVIOUS}
    return ModelReport(state.models.get(name), observe_leniently(session, name, labels), session.store.versions(name))


def _require_known(session: GroupSession, report: ModelReport, model: str) -> None:
    observed = any(replica.versions or replica.error for replica in report.observed.replicas)
    if report.desired is None and not report.published and not observed:
        raise NotFound(
            f"Neither the store nor a replica of group {session.group.name!r} knows model {model!r}.",
            "Check the name, or publish a version of it.",
        )


def _drift(session: GroupSession, state: DesiredState) -> str:
    try:
        require_no_drift(session, state)
    except Drift as error:
        return str(error)
    except TFSDeployError as error:
        return error.cause
    return ""
