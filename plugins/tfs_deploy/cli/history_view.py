"""The table of a model's history."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfs_deploy.cli.timestamps import readable
from tfs_deploy.deployment.records import MOVES_STABLE, Action, DeploymentRecord

_STYLES = {Action.PROMOTED: "green", Action.ROLLED_BACK: "yellow", Action.REJECTED: "red", Action.PUT_BACK: "red"}


def show_history(console: Console, records: Sequence[DeploymentRecord]) -> None:
    """Print one row per record, oldest first."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("action", no_wrap=True)
    table.add_column("version", no_wrap=True, justify="right")
    table.add_column("who", overflow="fold", max_width=24)
    table.add_column("reason", overflow="fold", ratio=1)
    for record in records:
        action = Text(record.action.value.replace("_", " "), style=_STYLES.get(record.action, ""))
        table.add_row(readable(record.at), action, _version(record), Text(record.actor), Text(record.reason))
    console.print(table)


def _version(record: DeploymentRecord) -> str:
    moved = record.action in MOVES_STABLE and record.previous is not None
    return f"{record.previous} -> {record.version}" if moved else str(record.version)
