"""Commands that read the record: `history`, `what-served`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from tfs_deploy.cli import options
from tfs_deploy.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rich.console import Console

    from tfs_deploy.deployment.records import DeploymentRecord

_STYLES = {"promoted": "green", "rolled_back": "yellow", "rejected": "red", "put_back": "red"}
_TIME_REMEDY = "Write it as ISO 8601 with a time zone, for example 2026-11-22T12:00:00Z or 2026-11-22T13:00:00+01:00."


@command(group_options=True)
def history(
    call: Invocation,
    model: options.Model,
    last: Annotated[int | None, typer.Option("--last", metavar="N", min=1, help="Only the newest N entries.")] = None,
) -> None:
    """Show everything that happened to the versions of a model, oldest first."""
    entries = _read_history(call, model)
    shown = entries[-last:] if last else entries
    call.answer(shown, lambda console: _show_history(console, shown))


@command(group_options=True)
def what_served(
    call: Invocation,
    model: options.Model,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="ISO 8601 with time zone, e.g. 2026-11-22T12:00Z; without it: now."),
    ] = None,
) -> None:
    """Tell which version answered `stable` at a time, by the record."""
    from tfs_deploy.cli.tables import readable_time
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.deployment import records

    now = SystemClock().now()
    when = now if at is None else past_time(at, now=now)
    documents, group = call.existing_store().documents, call.settings.group
    _read_history(call, model)
    served = records.version_at(documents, group, model, when)
    if served.version is None:
        sentence = f"No version of {model} answered `stable` at {readable_time(served.at)} UTC."
    else:
        sentence = (
            f"Version {served.version} of {model} answered `stable` at {readable_time(served.at)} UTC: "
            f"live since {readable_time(served.since)} UTC, moved by {served.actor}."
        )
    call.say(served, sentence)


def _read_history(call: Invocation, model: str) -> tuple[DeploymentRecord, ...]:
    """Return the records of `model`; raise NotFound without any."""
    from tfs_deploy.deployment import records
    from tfs_deploy.errors import NotFound
    from tfs_deploy.names import check_model_name

    history = records.history(call.existing_store().documents, call.settings.group, check_model_name(model))
    if not history:
        raise NotFound(
            f"Group {call.settings.group!r} has no record of model {model!r} in {call.store().uri}.",
            "Check the name, the group and the store: tfs-deploy status lists the models of a group.",
        )
    return history


def _show_history(console: Console, records: Sequence[DeploymentRecord]) -> None:
    """Print one row per record, oldest first."""
    from rich.text import Text

    from tfs_deploy.cli.tables import Column, print_table, readable_time

    columns = [
        Column("time (UTC)"),
        Column("action"),
        Column("version", right=True),
        Column("who", folds=True),
        Column("reason", folds=True),
    ]
    rows = [
        (
            readable_time(record.at),
            Text(record.action.value.replace("_", " "), style=_STYLES.get(record.action.value, "")),
            _version(record),
            record.actor,
            record.reason,
        )
        for record in records
    ]
    print_table(console, columns, rows)


def _version(record: DeploymentRecord) -> str:
    from tfs_deploy.deployment.records import MOVES_STABLE

    moved = record.action in MOVES_STABLE and record.previous is not None
    return f"{record.previous} -> {record.version}" if moved else str(record.version)


def past_time(text: str, *, now: datetime) -> datetime:
    """Return the time that `text` names; raise InvalidInput unless it is ISO 8601 with a time zone, up to `now`."""
    from datetime import datetime

    from tfs_deploy.errors import InvalidInput

    # Python 3.10 knows no Z.
    normal = re.sub(r"[zZ]$", "+00:00", text.strip())
    try:
        parsed = datetime.fromisoformat(normal)
    except ValueError as error:
        raise InvalidInput(f"The time {text!r} cannot be read.", _TIME_REMEDY) from error
    if parsed.tzinfo is None:
        raise InvalidInput(f"The time {text!r} has no time zone.", _TIME_REMEDY)
    if parsed > now:
        raise InvalidInput(f"The time {text!r} lies in the future.", "Ask for a time that the record can know about.")
    return parsed
