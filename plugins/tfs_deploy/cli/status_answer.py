"""What `status` answers: the values that --json prints, and that the tables show."""

from __future__ import annotations

from dataclasses import dataclass

from tfs_deploy.deployment import records, validation_results
from tfs_deploy.deployment.desired_state import LabelMove
from tfs_deploy.deployment.differences import Difference
from tfs_deploy.deployment.modes import steps_of
from tfs_deploy.deployment.replica_status import ReplicaStatus
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.status import GroupReport, ModelReport
from tfs_deploy.names import PLACEHOLDER
from tfs_deploy.serving.replies import VersionState


@dataclass(frozen=True, slots=True)
class ReplicaAnswer:
    """One replica: state by version, failed loads in the server's words, version by label; or why it did not answer.

    `since` holds the ISO 8601 time of the load of each version that was loaded by this program.
    """

    versions: dict[str, VersionState]
    failures: dict[str, str]
    labels: dict[str, int]
    since: dict[str, str]
    error: str


@dataclass(frozen=True, slots=True)
class Live:
    """Which version is `stable`, since when, and who moved it there."""

    version: int
    since: str
    actor: str


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """One model: `labels`, `versions` and `base_path` as desired, and the last verdict of the gates per version.

    `move` is a move of its labels that has begun and not ended.
    """

    base_path: str
    labels: dict[str, int]
    versions: tuple[int, ...]
    published: tuple[int, ...]
    verdicts: dict[str, str]
    live: Live | None
    move: LabelMove | None
    replicas: dict[str, ReplicaAnswer]


@dataclass(frozen=True, slots=True)
class StatusAnswer:
    """One serving group.

    `drift` is the first of the `differences` in words, empty if no replica that answered differs; `remedy` says what
    to do. Replicas that did not answer are in `unreachable`, and in `differences` with the kind ``unreachable``.
    """

    group: str
    mode: str
    models: dict[str, ModelAnswer]
    drift: str
    remedy: str
    differences: tuple[Difference, ...]
    unreachable: tuple[str, ...]


def answer_of(session: GroupSession, report: GroupReport) -> StatusAnswer:
    """Return `report` in the form that is printed."""
    models = {name: _model(session, name, model) for name, model in report.models.items()}
    return StatusAnswer(
        report.group, report.mode, models, report.drift, report.remedy, report.differences, report.unreachable
    )


def _model(session: GroupSession, name: str, report: ModelReport) -> ModelAnswer:
    labels = dict(report.desired.labels) if report.desired else {}
    known = {*report.published, *(report.desired.versions if report.desired else ())} - {PLACEHOLDER}
    verdicts = {}
    for version in sorted(known):
        result = validation_results.read(session.store.documents, session.group.name, name, version)
        if result is not None:
            verdicts[str(version)] = result.verdict.value
    return ModelAnswer(
        base_path=report.desired.base_path if report.desired else session.group.base_path(name),
        labels=labels,
        versions=report.desired.versions if report.desired else (),
        published=report.published,
        verdicts=verdicts,
        live=_live_version(session, name),
        move=report.move,
        replicas={replica.target: _replica(replica, report) for replica in report.observed.replicas},
    )


def _replica(replica: ReplicaStatus, report: ModelReport) -> ReplicaAnswer:
    available = replica.available()
    return ReplicaAnswer(
        versions={str(row.version): row.state for row in replica.versions},
        failures={
            str(row.version): f"{row.error_code}: {row.error_message}"
            for row in replica.versions
            if row.error_code != "OK"
        },
        labels=dict(replica.labels),
        since={
            str(version): times[replica.target]
            for version, times in report.since.items()
            if version in available and replica.target in times
        },
        error=replica.error,
    )


def _live_version(session: GroupSession, name: str) -> Live | None:
    """Return the version that should be live; since when and by whom, if the last recorded move led to it."""
    version = steps_of(session).live_version(session, name)
    if version is None:
        return None
    latest = records.latest_move(session.store.documents, session.group.name, name)
    if latest is not None and latest.version == version:
        return Live(version, latest.at, latest.actor)
    return Live(version, "", "")
