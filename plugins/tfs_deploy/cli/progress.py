"""Show what long work is doing: bars on a terminal, lines in a log, nothing beside a JSON answer. Always on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

# A log of a long upload should show that it lives, and not be made of it.
_LINE_SECONDS = 10.0


class Work(Protocol):
    """Something that is told which step begins and how far it is."""

    def begin(self, step: str, *, total: int | None = None) -> None:
        """Start the next step, which ends the one before; `total` is its bytes, if it can be measured in bytes."""

    def reach(self, done: int) -> None:
        """Say that `done` bytes of the step are done."""


class Silence:
    """Show nothing."""

    def begin(self, step: str, *, total: int | None = None) -> None:
        """Say nothing."""

    def reach(self, done: int) -> None:
        """Say nothing."""


class Lines:
    """Write one line per step, and one per ten seconds of an upload."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._step = ""
        self._total = 0
        self._last = 0.0

    def begin(self, step: str, *, total: int | None = None) -> None:
        self._step, self._total, self._last = step, total or 0, time.monotonic()
        size = f" ({size_of(total)})" if total else ""
        self._console.print(f"{step}{size} ...", markup=False, highlight=False, soft_wrap=True)

    def reach(self, done: int) -> None:
        if time.monotonic() - self._last >= _LINE_SECONDS:
            self._last = time.monotonic()
            told = f"{self._step}: {size_of(done)} of {size_of(self._total)}"
            self._console.print(told, markup=False, highlight=False, soft_wrap=True)


class Bars:
    """Draw a bar, or a spinner where nothing can be measured."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def begin(self, step: str, *, total: int | None = None) -> None:
        self.end()
        self._task = self._bars.add_task(step, total=total, told="")

    def reach(self, done: int) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=done, told=size_of(done))

    def end(self) -> None:
        """Fill the bar of the step that is done."""
        if self._task is not None:
            total = self._bars.tasks[-1].total or 1
            self._bars.update(self._task, total=total, completed=total)
            self._bars.stop_task(self._task)


@contextmanager
def show(*, silent: bool) -> Iterator[Work]:
    """Give something to tell about the work in the block."""
    console = Console(stderr=True)
    if silent:
        yield Silence()
        return
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[told]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bars = Bars(progress)
        yield bars
        bars.end()


def size_of(count: int | None) -> str:
    """Return a byte count as people write it, in powers of 1000."""
    size = float(count or 0)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000.0:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000.0
    return f"{size:.1f} TB"
