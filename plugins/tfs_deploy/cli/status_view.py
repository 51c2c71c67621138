"""The tables of `status`: per model its versions, and what each replica holds; then everything that differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from tfs_deploy.cli.status_answer import ModelAnswer, ReplicaAnswer, StatusAnswer
from tfs_deploy.cli.tables import Column, print_table, readable_time
from tfs_deploy.deployment.desired_state import STABLE
from tfs_deploy.deployment.differences import Difference, DifferenceKind
from tfs_deploy.names import PLACEHOLDER, plural
from tfs_deploy.serving.replies import VersionState

_STYLES = {
    VersionState.AVAILABLE: "green",
    VersionState.START: "yellow",
    VersionState.LOADING: "yellow",
    VersionState.UNLOADING: "yellow",
    VersionState.UNKNOWN: "yellow",
}
_ABSENT = "-"
# Up to so many replicas have a row each; of more, those that hold the same share a row.
_ROWS_OF_THEIR_OWN = 8
_NAMES_IN_A_ROW = 3
_LISTED = 20


def show_status(
    console: Console, answer: StatusAnswer, *, only_findings: bool = False, findings_first: bool = False
) -> None:
    """Print two tables per model and what is wrong with the group, if anything is; or the latter alone, or first."""
    replicas = {target for model in answer.models.values() for target in model.replicas}
    count = f", {plural(len(replicas), 'replica')}" if replicas else ""
    console.print(Text(f"Group {answer.group} (mode {answer.mode}{count})"))
    if not answer.models:
        console.print(Text("It serves no model yet: tfs-deploy deploy DIR --model NAME."))
    if findings_first:
        _show_findings(console, answer)
    for name, model in answer.models.items() if not only_findings else ():
        console.print()
        _show_model(console, name, model)
    if not findings_first:
        _show_findings(console, answer)


def _show_findings(console: Console, answer: StatusAnswer) -> None:
    for text in _findings(answer):
        console.print()
        console.print(text)


def _show_model(console: Console, name: str, model: ModelAnswer) -> None:
    console.print(Text.assemble((name, "bold"), f": {_live(model)}"))
    if model.move is not None:
        labels = ", ".join(f"{label} = {version}" for label, version in sorted(model.move.labels.items())) or "none"
        sentence = (
            f"{model.move.record.actor} has been moving its labels ({labels}) since "
            f"{readable_time(model.move.record.at)} UTC; if that run has ended, reconcile ends the move."
        )
        console.print(Text(sentence, style="yellow"))
    if PLACEHOLDER in model.versions:
        sentence = (
            f"Its first version is loading; until then version {PLACEHOLDER} answers, a placeholder, with an error."
        )
        console.print(Text(sentence, style="yellow"))
    versions = _shown_versions(model)
    if versions:
        _show_versions(console, model, versions)
        console.print()
        _show_replicas(console, model, versions)
    for (version, error), targets in _failures(model, versions).items():
        console.print(Text(f"{_names(targets)}: version {version}: {error}", style="red"))


def _live(model: ModelAnswer) -> str:
    if model.live is None:
        return "no version is live"
    sentence = f"version {model.live.version} is live"
    if model.live.since:
        sentence += f" since {readable_time(model.live.since)} UTC, moved by {model.live.actor}"
    return sentence


def _shown_versions(model: ModelAnswer) -> list[int]:
    """Return the versions to show, newest first, without those that only a server remembers, as END."""
    shown = {*model.published, *model.versions, *model.labels.values()}
    for replica in model.replicas.values():
        shown |= {int(version) for version, state in replica.versions.items() if state is not VersionState.END}
    return sorted(shown, reverse=True)


def _show_versions(console: Console, model: ModelAnswer, versions: Sequence[int]) -> None:
    columns = [Column("version", right=True), Column("label"), Column("gates"), Column("loaded"), Column("in store")]
    rows: list[list[str | Text]] = []
    for version in versions:
        labels = sorted(label for label, number in model.labels.items() if number == version)
        label = Text(", ".join(labels), style="bold" if STABLE in labels else "")
        verdict = model.verdicts.get(str(version), _ABSENT)
        holders = sum(
            replica.versions.get(str(version)) is VersionState.AVAILABLE for replica in model.replicas.values()
        )
        loaded = f"{holders} of {len(model.replicas)}"
        in_store = "yes" if version in model.published else "no"
        if version == PLACEHOLDER:
            label, in_store = Text("placeholder"), _ABSENT
        rows.append([str(version), label, verdict, loaded, in_store])
    print_table(console, columns, rows)


@dataclass(frozen=True, slots=True)
class _VersionCell:
    """One version on a replica, or (`version` None) what stands in place of versions."""

    version: int | None
    text: str
    style: str


@dataclass(frozen=True, slots=True)
class _Row:
    """What one replica holds, without the times: replicas with equal rows are shown as one."""

    labels: tuple[tuple[str, str], ...]
    versions: tuple[_VersionCell, ...]


def _show_replicas(console: Console, model: ModelAnswer, versions: Sequence[int]) -> None:
    """Print a row per replica, or per set of replicas that hold the same, below a row of what is desired."""
    answered = {label for replica in model.replicas.values() for label in replica.labels}
    labels = sorted({STABLE, *model.labels, *answered}, key=lambda label: (label != STABLE, label))
    columns = [Column("replica"), *map(Column, labels), Column("versions", folds=True)]
    wanted = [Text(str(model.labels.get(label, _ABSENT)), style="bold") for label in labels]
    listed = ", ".join(map(str, sorted(model.versions, reverse=True))) or _ABSENT
    rows: list[list[str | Text]] = [[Text("desired", style="bold"), *wanted, Text(listed, style="bold")]]
    for row, targets in _equal_rows(model, labels, versions):
        cells = [Text(text, style=style) for text, style in row.labels]
        held = Text("\n").join(_version_line(model, cell, targets) for cell in row.versions)
        name = targets[0] if len(targets) == 1 else plural(len(targets), "replica")
        rows.append([name, *cells, held or Text(_ABSENT)])
    print_table(console, columns, rows)


def _equal_rows(
    model: ModelAnswer, labels: Sequence[str], versions: Sequence[int]
) -> list[tuple[_Row, tuple[str, ...]]]:
    rows = {target: _row(model, replica, labels, versions) for target, replica in model.replicas.items()}
    if len(rows) <= _ROWS_OF_THEIR_OWN:
        return [(row, (target,)) for target, row in rows.items()]
    targets: dict[_Row, list[str]] = {}
    for target, row in rows.items():
        targets.setdefault(row, []).append(target)
    return sorted(((row, tuple(names)) for row, names in targets.items()), key=lambda item: -len(item[1]))


def _row(model: ModelAnswer, replica: ReplicaAnswer, labels: Sequence[str], versions: Sequence[int]) -> _Row:
    if replica.error:
        return _Row((("?", "red"),) * len(labels), (_VersionCell(None, "did not answer", "red"),))
    cells = []
    for label in labels:
        answer = replica.labels.get(label)
        style = "" if answer == model.labels.get(label) else "bold red"
        cells.append((_ABSENT if answer is None else str(answer), style))
    held = []
    for version in versions:
        state = replica.versions.get(str(version))
        if str(version) in replica.failures:
            held.append(_VersionCell(version, "FAILED", "bold red"))
        elif state is None and version in model.versions:
            held.append(_VersionCell(version, "absent", "yellow"))
        elif state is not None and (state is not VersionState.END or version in model.versions):
            foreign = state is VersionState.AVAILABLE and version not in {*model.versions, *model.published}
            held.append(_VersionCell(version, state.value, "bold red" if foreign else _STYLES.get(state, "")))
    return _Row(tuple(cells), tuple(held))


def _version_line(model: ModelAnswer, cell: _VersionCell, targets: Iterable[str]) -> Text:
    """Return the line of a version; on several replicas, since when all of them hold it."""
    if cell.version is None:
        return Text(cell.text, style=cell.style)
    times = [time for target in targets if (time := model.replicas[target].since.get(str(cell.version)))]
    since = f" since {readable_time(max(times))}" if times else ""
    return Text.assemble(f"{cell.version} ", (cell.text, cell.style), since)


def _failures(model: ModelAnswer, versions: Sequence[int]) -> dict[tuple[int, str], tuple[str, ...]]:
    """Return the replicas of each failed load, by version and message."""
    failures: dict[tuple[int, str], tuple[str, ...]] = {}
    for target, replica in model.replicas.items():
        for version, error in replica.failures.items():
            if int(version) in versions:
                failures[int(version), error] = (*failures.get((int(version), error), ()), target)
    return failures


def _names(targets: Sequence[str]) -> str:
    return ", ".join(targets) if len(targets) <= _NAMES_IN_A_ROW else plural(len(targets), "replica")


def _findings(answer: StatusAnswer) -> list[Text]:
    """Return what is wrong with the group, or that nothing is."""
    findings = []
    drift = [difference for difference in answer.differences if difference.kind is not DifferenceKind.UNREACHABLE]
    if drift:
        lines = _drift_lines(drift)
        hidden = len(lines) - _LISTED
        more = [f"  and {plural(hidden, 'more difference')} (--json lists all)"] if hidden > 0 else []
        heading = f"Drift ({plural(len(drift), 'difference')}):"
        findings.append(Text("\n".join([heading, *lines[:_LISTED], *more]), style="red"))
        findings.append(Text(answer.remedy))
    if answer.unreachable:
        lines = [f"Could not ask: {_names(answer.unreachable)}.", *_errors(answer)]
        findings.append(Text("\n".join(lines), style="red"))
    if answer.models and not drift and not answer.unreachable:
        findings.append(Text("No drift: every replica holds what it should.", style="green"))
    return findings


def _drift_lines(drift: Sequence[Difference]) -> list[str]:
    """Return a line per difference; replicas with the same one share it."""
    targets: dict[tuple[str, str], list[str]] = {}
    for difference in drift:
        targets.setdefault((difference.model, difference.detail), []).append(difference.replica)
    return [f"  {model}: {detail} on {_names(replicas)}" for (model, detail), replicas in targets.items()]


def _errors(answer: StatusAnswer) -> list[str]:
    """Return a line per replica that did not answer, with the error for its first model."""
    errors: dict[str, str] = {}
    for model in answer.models.values():
        for target, replica in model.replicas.items():
            if replica.error:
                errors.setdefault(target, replica.error)
    lines = [f"  {error}" for error in errors.values()]
    hidden = len(lines) - _LISTED
    return [*lines[:_LISTED], *([f"  and {hidden} more (--json lists all)"] if hidden > 0 else [])]
