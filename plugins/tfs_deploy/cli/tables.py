"""Tables that keep every column at any width, and the text of times and sizes in them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

# A pipe or a file has no width: every row stays on one line there, for grep and the like.
_UNLIMITED_WIDTH = 100_000
# Below this width, in characters, a column of prose is not readable.
_LEAST_FOLDED_WIDTH = 24
_GAP = "  "
_INDENT = "    "


@dataclass(frozen=True, slots=True)
class Column:
    """One column; `folds` where its text may be broken over lines, `right` where it holds numbers."""

    title: str
    folds: bool = False
    right: bool = False


def stdout_console() -> Console:
    """Return a console on stdout: as wide as the terminal (or COLUMNS), and without a limit where there is none."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNLIMITED_WIDTH
    return console


def fits(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str | Text]]) -> bool:
    """Tell whether the table can be printed with every column beside the others."""
    widths = [_width(column, [row[index] for row in rows]) for index, column in enumerate(columns)]
    least = [
        min(width, _LEAST_FOLDED_WIDTH) if column.folds else width
        for column, width in zip(columns, widths, strict=True)
    ]
    return sum(least) + len(_GAP) * (len(columns) - 1) <= console.width


def print_table(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str | Text]]) -> None:
    """Print a table; where it is too wide, the columns that fold become lines of their own below each row."""
    unlimited = console.width >= _UNLIMITED_WIDTH
    cells = [[_cell(cell, one_line=unlimited) for cell in row] for row in rows]
    if fits(console, columns, cells) and not unlimited:
        console.print(_unfolded_table(columns, cells))
        return
    if unlimited:
        columns = [replace(column, folds=False) for column in columns]
    for line in _stacked(console, columns, cells):
        console.print(line, soft_wrap=True)


def _cell(cell: str | Text, *, one_line: bool) -> Text:
    text = Text(cell) if isinstance(cell, str) else cell
    return Text("; ").join(text.split("\n")) if one_line else text


def _unfolded_table(columns: Sequence[Column], rows: Sequence[Sequence[Text]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        justify: JustifyMethod = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, overflow="fold", no_wrap=not column.folds)
    for row in rows:
        table.add_row(*row)
    return table


def _stacked(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[Text]]) -> Iterator[Text]:
    """Yield a heading, then per row one line of the columns that do not fold and indented lines of those that do."""
    widths = [_width(column, [row[index] for row in rows]) for index, column in enumerate(columns)]
    yield _line(columns, widths, [Text(column.title, style="bold") for column in columns])
    for row in rows:
        yield _line(columns, widths, row)
        for column, cell in zip(columns, row, strict=True):
            if column.folds and cell.plain:
                text = Text.assemble(f"{column.title}: ", cell)
                for part in text.wrap(console, max(console.width - len(_INDENT), 1)):
                    part.rstrip()
                    yield Text.assemble(_INDENT, part)


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[Text]) -> Text:
    cells = []
    for column, width, cell in zip(columns, widths, row, strict=True):
        if not column.folds:
            padded = cell.copy()
            padded.align("right" if column.right else "left", width)
            cells.append(padded)
    line = Text(_GAP).join(cells)
    line.rstrip()
    return line


def _width(column: Column, cells: Sequence[str | Text]) -> int:
    lines = [line for cell in cells for line in str(cell).splitlines()]
    return max(map(cell_len, [column.title, *lines]))


def readable_time(text: str) -> str:
    """Return an ISO 8601 time as ``2026-11-22 12:00:00``, in UTC."""
    return datetime.fromisoformat(text).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def readable_size(count: int | None) -> str:
    """Return a byte count as people write it, in powers of 1000."""
    size = float(count or 0)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000.0:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000.0
    return f"{size:.1f} TB"
