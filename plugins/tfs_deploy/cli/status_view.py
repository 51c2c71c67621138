"""What `status` answers, as a value for JSON and as tables."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from tfs_deploy.cli.tables import Column, fits, print_table, readable_time
from tfs_deploy.deployment import records, validation_results
from tfs_deploy.deployment.desired_state import STABLE, LabelMove
from tfs_deploy.deployment.modes import steps_of
from tfs_deploy.deployment.replica_status import ReplicaStatus
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.status import GroupReport, ModelReport
from tfs_deploy.names import plural
from tfs_deploy.serving.replies import VersionState

_STYLES = {
    VersionState.AVAILABLE: "green",
    VersionState.START: "yellow",
    VersionState.LOADING: "yellow",
    VersionState.UNLOADING: "yellow",
    VersionState.UNKNOWN: "yellow",
}
_ABSENT = "-"


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
    """One model: `labels`, `versions` and `base_path` as desired, and the last verdict of the gates per version."""

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


def _live_version(session: GroupSession, name: str) -> Live | None:
    """Return the version that should be live; since when and by whom, if the last recorded move led to it."""
    version = steps_of(session).live_version(session, name)
    if version is None:
        return None
    latest = records.latest_move(session.store.documents, session.group.name, name)
    if latest is not None and latest.version == version:
        return Live(version, latest.at, latest.actor)
    return Live(version, "", "")


def show_status(console: Console, answer: StatusAnswer) -> None:
    """Print a table per model and what is wrong with the group, if anything is."""
    replicas = sorted({target for model in answer.models.values() for target in model.replicas})
    count = f", {plural(len(replicas), 'replica')}" if replicas else ""
    console.print(Text(f"Group {answer.group} (mode {answer.mode}{count})"))
    if not answer.models:
        console.print(Text("It serves no model yet: tfs-deploy deploy DIR --model NAME."))
    for name, model in answer.models.items():
        console.print()
        _show_model(console, name, model)
    for sentence, style in _findings(answer):
        console.print()
        console.print(Text(sentence, style=style))


def _show_model(console: Console, name: str, model: ModelAnswer) -> None:
    console.print(Text.assemble((name, "bold"), f": {_live(model)}"))
    versions = _versions(model)
    if versions:
        columns, rows = _table(model, versions, column_per_replica=True)
        if not fits(console, columns, rows):
            columns, rows = _table(model, versions, column_per_replica=False)
        print_table(console, columns, rows)
    for target, replica in model.replicas.items():
        if replica.error:
            console.print(Text(f"{target}: {replica.error}", style="red"))
        for version, error in replica.failures.items():
            if int(version) in versions:
                console.print(Text(f"{target}: version {version}: {error}", style="red"))


def _live(model: ModelAnswer) -> str:
    if model.live is None:
        return "no version is live"
    sentence = f"version {model.live.version} is live"
    if model.live.since:
        sentence += f" since {readable_time(model.live.since)} UTC, moved by {model.live.actor}"
    return sentence


def _versions(model: ModelAnswer) -> list[int]:
    """Return the versions to show, newest first, without those that only a server remembers, as END."""
    shown = {*model.published, *model.versions, *model.labels.values()}
    for replica in model.replicas.values():
        shown |= {int(version) for version, state in replica.versions.items() if state is not VersionState.END}
    return sorted(shown, reverse=True)


def _table(
    model: ModelAnswer, versions: list[int], *, column_per_replica: bool
) -> tuple[list[Column], list[list[str | Text]]]:
    replicas = [Column(target) for target in model.replicas] if column_per_replica else [Column("replicas", folds=True)]
    columns = [Column("version", right=True), Column("label"), *replicas, Column("gates"), Column("in store")]
    rows: list[list[str | Text]] = []
    for version in versions:
        labels = sorted(label for label, number in model.labels.items() if number == version)
        states = {target: _state(model, target, version) for target in model.replicas}
        cells = list(states.values()) if column_per_replica else [_states_with_replicas(states)]
        verdict = model.verdicts.get(str(version), _ABSENT)
        in_store = "yes" if version in model.published else "no"
        label = Text(", ".join(labels), style="bold" if STABLE in labels else "")
        rows.append([str(version), label, *cells, verdict, in_store])
    return columns, rows


def _state(model: ModelAnswer, target: str, version: int) -> Text:
    replica = model.replicas[target]
    if replica.error:
        return Text("?", style="red")
    state = replica.versions.get(str(version))
    if state is None:
        return Text(_ABSENT)
    if str(version) in replica.failures:
        return Text("FAILED", style="bold red")
    return Text(state.value, style=_STYLES.get(state, ""))


def _states_with_replicas(states: dict[str, Text]) -> Text:
    """Return one line per state with its replicas, for a group with too many replicas for columns."""
    kinds = {state.plain: state for state in states.values()}
    if len(kinds) == 1:
        (state,) = kinds.values()
        return Text.assemble(state, f" on all {len(states)}")
    lines = [
        Text.assemble(state, f" on {', '.join(target for target, other in states.items() if other.plain == plain)}")
        for plain, state in kinds.items()
    ]
    return Text("\n").join(lines)


def _findings(answer: StatusAnswer) -> list[tuple[str, str]]:
    findings: list[tuple[str, str]] = []
    if answer.move is not None:
        moving = ", ".join(f"{label} = {version}" for label, version in sorted(answer.move.labels.items()))
        findings.append(
            (
                f"{answer.move.actor} has been moving labels of {answer.move.model} ({moving}) since "
                f"{readable_time(answer.move.since)} UTC; if that run has ended, the next step finishes or undoes it.",
                "yellow",
            )
        )
    if answer.unreachable:
        findings.append((f"Could not ask: {', '.join(answer.unreachable)}.", "red"))
    elif answer.drift:
        findings.append((answer.drift, "red"))
    elif answer.models:
        findings.append(("No drift: every replica holds what it should.", "green"))
    return findings
