"""What `status` answers: per replica and version the state, per label the version, and since when."""

from __future__ import annotations

from dataclasses import dataclass

from tfs_deploy.deployment import records, validation_results
from tfs_deploy.deployment.desired_state import LabelMove
from tfs_deploy.deployment.modes import steps_of
from tfs_deploy.deployment.replica_status import ReplicaStatus
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.status import GroupReport, ModelReport
from tfs_deploy.serving.protocol import VersionState

# A model server answers for a model that it does not know as well: that it does not know it.
_NOBODY = "no_such_model"


@dataclass(frozen=True, slots=True)
class ReplicaAnswer:
    """One replica: state by version, failed loads in the server's words, version by label; or why it did not answer."""

    versions: dict[str, VersionState]
    failures: dict[str, str]
    labels: dict[str, int]
    error: str


@dataclass(frozen=True, slots=True)
class Live:
    """Which version is `stable`, since when, and who moved it there."""

    version: int
    since: str
    actor: str


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """One model; `labels`, `versions` and `base_path` are the desired ones, `verdicts` the gates' last words."""

    base_path: str
    labels: dict[str, int]
    versions: tuple[int, ...]
    published: tuple[int, ...]
    verdicts: dict[str, str]
    live: Live | None
    replicas: dict[str, ReplicaAnswer]


@dataclass(frozen=True, slots=True)
class StatusAnswer:
    """One serving group; `drift` is one sentence, empty where every replica holds what it should."""

    group: str
    mode: str
    models: dict[str, ModelAnswer]
    move: LabelMove | None
    drift: str
    unreachable: tuple[str, ...]


def answer_of(session: GroupSession, report: GroupReport) -> StatusAnswer:
    """Return `report` in the form that is printed."""
    models = {name: _model(session, name, model) for name, model in report.models.items()}
    return StatusAnswer(report.group, report.mode, models, report.move, report.drift, report.unreachable)


def _model(session: GroupSession, name: str, report: ModelReport) -> ModelAnswer:
    replicas = {replica.target: _replica(replica) for replica in report.observed.replicas}
    labels = dict(report.desired.labels) if report.desired else {}
    known = {*report.published, *(report.desired.versions if report.desired else ())}
    verdicts = {}
    for version in sorted(known):
        told = validation_results.read(session.store.documents, session.group.name, name, version)
        if told is not None:
            verdicts[str(version)] = told.verdict.value
    return ModelAnswer(
        base_path=report.desired.base_path if report.desired else session.group.base_path(name),
        labels=labels,
        versions=report.desired.versions if report.desired else (),
        published=report.published,
        verdicts=verdicts,
        live=_live(session, name),
        replicas=replicas,
    )


def _replica(replica: ReplicaStatus) -> ReplicaAnswer:
    return ReplicaAnswer(
        versions={str(row.version): row.state for row in replica.versions},
        failures={
            str(row.version): f"{row.error_code}: {row.error_message}"
            for row in replica.versions
            if row.error_code != "OK"
        },
        labels=dict(replica.labels),
        error=replica.error,
    )


def _live(session: GroupSession, name: str) -> Live | None:
    """Return the version that should be live; since when and by whom, if the last recorded move led to it."""
    version = steps_of(session).live_version(session, name)
    latest = records.latest_move(session.store.documents, session.group.name, name)
    if version is None:
        return None
    if latest is not None and latest.version == version:
        return Live(version, latest.at, latest.actor)
    return Live(version, "", "")
