"""The output of the demo: progress, digits as text, a table of versions, and the history of `stable`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tfs_deploy.demo.airflow_process import DagRun, TaskRun
from tfs_deploy.demo.results import Answer, Attempt, Move

STEPS = ("train", "export", "publish", "load", "validate", "promote")
_SHOWN = (*STEPS, "rollback")
_WIDTH = 100
# From paper to ink: five shades for the values 0 to 16.
_SHADES = " ░▒▓█"
_VERDICT_STYLE = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}
_LABEL_STYLE = {"stable": "bold green", "previous": "cyan"}


def console() -> Console:
    """Return a console as wide as the terminal, or `_WIDTH` columns where there is none."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=_WIDTH)


class Progress:
    """Print which step runs and, at the end of a run, how long each took."""

    def __init__(self, output: Console) -> None:
        self._output = output

    @contextmanager
    def waiting(self, activity: str) -> Iterator[None]:
        """Show `activity` while the block runs."""
        with self._output.status(activity):
            yield

    def section(self, title: str) -> None:
        """Print the title of a part."""
        self._output.print(f"\n[bold]{title}[/bold]")

    def say(self, text: str, style: str = "") -> None:
        """Print one paragraph."""
        self._output.print(Padding(Text(text, style=style), (0, 0, 0, 2), expand=False))

    @contextmanager
    def run(self) -> Iterator[TaskLine]:
        """Show the tasks of one run while the block runs."""
        with self._output.status("starting") as status:
            yield TaskLine(status.update)

    def finished(self, run: DagRun) -> None:
        """Print the tasks of a finished run with their seconds."""
        parts = [_ended(task) for task in run.tasks if task.step in _SHOWN or task.state == "failed"]
        self._output.print(Padding(Text("  ").join(parts), (0, 0, 0, 2), expand=False))


class TaskLine:
    """The line that names the running task."""

    def __init__(self, update: object) -> None:
        self._update = update

    def __call__(self, task: TaskRun) -> None:
        if task.state == "running" and callable(self._update):
            self._update(f"{task.step} …")


def attempts_tables(attempts: Sequence[Attempt]) -> Group:
    """Return a table of the results and one of the seconds per step, with a row per training run in each.

    Two tables, because one with all columns does not fit into 80 columns.
    """
    return Group(_results_table(attempts), _seconds_table(attempts))


def _results_table(attempts: Sequence[Attempt]) -> Table:
    table = _table("Three training runs")
    table.add_column("version", justify="right", no_wrap=True)
    table.add_column("fingerprint", no_wrap=True)
    table.add_column("accuracy", justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    table.add_column("label", no_wrap=True)
    for attempt in attempts:
        table.add_row(
            _version(attempt),
            attempt.fingerprint.removeprefix("sha256:")[:8],
            "" if attempt.accuracy is None else f"{attempt.accuracy:.1%}",
            Text(attempt.verdict, style=_VERDICT_STYLE.get(attempt.verdict, "")),
            Text(attempt.label or "-", style=_LABEL_STYLE.get(attempt.label, "dim")),
        )
    return table


def _seconds_table(attempts: Sequence[Attempt]) -> Table:
    table = _table("Seconds per step")
    table.add_column("version", justify="right", no_wrap=True)
    for step in STEPS:
        table.add_column(step, justify="right", no_wrap=True)
    for attempt in attempts:
        table.add_row(_version(attempt), *(_seconds(attempt.run.seconds(step)) for step in STEPS))
    return table


def _version(attempt: Attempt) -> str:
    return "-" if attempt.version is None else str(attempt.version)


def moves_table(moves: Sequence[Move]) -> Table:
    """Return the moves of `stable` and the rejections."""
    table = _table("The record of label stable")
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("action", no_wrap=True)
    table.add_column("version", justify="right")
    table.add_column("reason", overflow="fold")
    for move in moves:
        style = "red" if move.action == "rejected" else ""
        table.add_row(move.time, Text(move.action.replace("_", " "), style=style), str(move.version), move.reason)
    return table


def digits_panel(answers: Sequence[Answer], title: str) -> RenderableType:
    """Return the digits as text, each with the answer and the truth."""
    drawn = [_digit(answer) for answer in answers]
    versions = sorted({answer.version for answer in answers})
    numbers = ", ".join(str(version) for version in versions)
    title = f"{title} (answered by version {numbers})"
    return Panel(Columns(drawn, padding=(0, 2)), title=title, title_align="left", expand=False)


def _digit(answer: Answer) -> RenderableType:
    right = answer.digit == answer.truth
    text = Text(f"{answer.digit} ({answer.probability:.0%})", style="green" if right else "bold red")
    text.append(f" is {answer.truth}" if not right else " ✓", style="dim" if right else "red")
    return Group(Text(draw(answer.image)), text)


def draw(image: np.ndarray) -> str:
    """Return an image `[8, 8, 1]` of 0 to 16 as eight lines of sixteen characters."""
    shades = np.clip(np.ceil(image[:, :, 0] / 4), 0, len(_SHADES) - 1).astype(int)
    return "\n".join("".join(_SHADES[value] * 2 for value in row) for row in shades)


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_style="bold",
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _ended(task: TaskRun) -> Text:
    # Non-breaking spaces: a line may break between tasks only.
    done = task.state == "success"
    text = Text(f"{'✓' if done else '✗'}\N{NO-BREAK SPACE}{task.step}", style="green" if done else "red")
    return text.append(f"\N{NO-BREAK SPACE}{task.seconds:.1f}\N{NO-BREAK SPACE}s", style="dim")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
