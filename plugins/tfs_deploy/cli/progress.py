"""Progress of long work on stderr: bars on a terminal, lines in a log, nothing beside a JSON answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console

from tfs_deploy.cli.tables import readable_size

# A log of a long upload shows that it goes on, and does not consist of it.
_LINE_SECONDS = 10.0


class Progress:
    """The progress of one command; this base class shows nothing."""

    def begin(self, step: str, *, total: int | None = None) -> None:
        """Start the next step, which ends the one before; `total` is its bytes, if it can be measured in bytes."""

    def update(self, done: int) -> None:
        """Take note that `done` bytes of the step are done."""


class LineProgress(Progress):
    """Writes one line per step, and one per ten seconds of an upload."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._step = ""
        self._total = 0
        self._last = 0.0

    def begin(self, step: str, *, total: int | None = None) -> None:
        self._step, self._total, self._last = step, total or 0, time.monotonic()
        size = f" ({readable_size(total)})" if total else ""
        self._print(f"{step}{size} ...")

    def update(self, done: int) -> None:
        if time.monotonic() - self._last >= _LINE_SECONDS:
            self._last = time.monotonic()
            self._print(f"{self._step}: {readable_size(done)} of {readable_size(self._total)}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class BarProgress(Progress):
    """Draws a bar, or a spinner for a step that cannot be measured."""

    def __init__(self, display: bars.Progress) -> None:
        self._display = display
        self._task: bars.TaskID | None = None

    def begin(self, step: str, *, total: int | None = None) -> None:
        self.end()
        self._task = self._display.add_task(step, total=total, size="")

    def update(self, done: int) -> None:
        if self._task is not None:
            self._display.update(self._task, completed=done, size=readable_size(done))

    def end(self) -> None:
        """Fill the bar of the step that is done."""
        if self._task is not None:
            total = self._display.tasks[-1].total or 1
            self._display.update(self._task, total=total, completed=total)
            self._display.stop_task(self._task)


@contextmanager
def show_progress(*, silent: bool) -> Iterator[Progress]:
    """Yield a progress that is shown on stderr during the block."""
    console = Console(stderr=True)
    if silent:
        yield Progress()
        return
    if not console.is_terminal:
        yield LineProgress(console)
        return
    columns = (
        bars.SpinnerColumn(finished_text=" "),
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(bar_width=24),
        bars.TextColumn("{task.fields[size]}", markup=False),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=console) as display:
        progress = BarProgress(display)
        yield progress
        progress.end()
