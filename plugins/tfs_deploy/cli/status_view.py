"""The tables of `status`."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfs_deploy.cli.status_answer import ModelAnswer, StatusAnswer
from tfs_deploy.cli.timestamps import readable
from tfs_deploy.deployment.desired_state import STABLE
from tfs_deploy.serving.protocol import VersionState

_STYLES = {
    VersionState.AVAILABLE: "green",
    VersionState.START: "yellow",
    VersionState.LOADING: "yellow",
    VersionState.UNLOADING: "yellow",
    VersionState.UNKNOWN: "yellow",
}
_ABSENT = "-"
# What the columns beside the replicas take: version, label, gates, in the store, and the space between columns.
_OTHER_COLUMNS = 48


def show_status(console: Console, answer: StatusAnswer) -> None:
    """Print a table per model and what is wrong with the group, if anything is."""
    replicas = sorted({target for model in answer.models.values() for target in model.replicas})
    count = f", {len(replicas)} replica(s)" if replicas else ""
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
        wide = sum(len(target) + 3 for target in model.replicas) + _OTHER_COLUMNS <= console.width
        console.print(_table(model, versions, column_per_replica=wide))
    for target, replica in model.replicas.items():
        if replica.error:
            console.print(Text(f"{target}: {replica.error}", style="red"))
        for version, told in replica.failures.items():
            if int(version) in versions:
                console.print(Text(f"{target}: version {version}: {told}", style="red"))


def _live(model: ModelAnswer) -> str:
    if model.live is None:
        return "no version is live"
    told = f"version {model.live.version} is live"
    if model.live.since:
        told += f" since {readable(model.live.since)} UTC, moved by {model.live.actor}"
    return told


def _versions(model: ModelAnswer) -> list[int]:
    """Return what deserves a row, newest first: a server remembers dead versions, which nobody asks for."""
    shown = {*model.published, *model.versions, *model.labels.values()}
    for replica in model.replicas.values():
        shown |= {int(version) for version, state in replica.versions.items() if state is not VersionState.END}
    return sorted(shown, reverse=True)


def _table(model: ModelAnswer, versions: list[int], *, column_per_replica: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("version", justify="right", no_wrap=True)
    table.add_column("label", no_wrap=True)
    if column_per_replica:
        for target in model.replicas:
            table.add_column(Text(target), no_wrap=True)
    else:
        table.add_column("replicas", overflow="fold")
    table.add_column("gates", no_wrap=True)
    table.add_column("in store", no_wrap=True)
    for version in versions:
        labels = sorted(label for label, number in model.labels.items() if number == version)
        states = {target: _state(model, target, version) for target in model.replicas}
        cells = list(states.values()) if column_per_replica else [_grouped(states)]
        table.add_row(
            str(version),
            Text(", ".join(labels), style="bold" if STABLE in labels else ""),
            *cells,
            model.verdicts.get(str(version), _ABSENT),
            "yes" if version in model.published else "no",
        )
    return table


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


def _grouped(states: dict[str, Text]) -> Text:
    """Return the states with their replicas, one line per state, for groups that are too wide for columns."""
    kinds = {state.plain: state for state in states.values()}
    if len(kinds) == 1:
        (state,) = kinds.values()
        return Text.assemble(state, f" on all {len(states)}")
    lines = [
        Text.assemble(state, f" on {', '.join(target for target, held in states.items() if held.plain == plain)}")
        for plain, state in kinds.items()
    ]
    return Text("\n").join(lines)


def _findings(answer: StatusAnswer) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if answer.move is not None:
        moving = ", ".join(f"{label} = {version}" for label, version in sorted(answer.move.labels.items()))
        found.append(
            (
                f"{answer.move.actor} has been moving labels of {answer.move.model} ({moving}) since "
                f"{readable(answer.move.since)} UTC; if that run is gone, the next step finishes or undoes the move.",
                "yellow",
            )
        )
    if answer.unreachable:
        found.append((f"Could not ask: {', '.join(answer.unreachable)}.", "red"))
    elif answer.drift:
        found.append((answer.drift, "red"))
    elif answer.models:
        found.append(("No drift: every replica holds what it should.", "green"))
    return found
