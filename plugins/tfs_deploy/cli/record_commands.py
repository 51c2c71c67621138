"""Commands that read the record: `history`, `what-served`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from tfs_deploy.cli import options
from tfs_deploy.cli.invocation import Invocation, command
from tfs_deploy.deployment.deployment_record import MOVES_STABLE, Action

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rich.console import Console

    from tfs_deploy.deployment.deployment_record import DeploymentRecord
    from tfs_deploy.store.protocol import StateDocuments

_STYLES = {
    "promoted": "green",
    "rolled_back": "yellow",
    "rejected": "red",
    "put_back": "red",
    "undeployed": "red",
}
_ACTIONS = ", ".join(action.value for action in Action)
# A screen of entries.
_LIMIT = 20
_TIME_REMEDY = "Write it as ISO 8601 with a time zone, for example 2026-11-22T12:00:00Z or 2026-11-22T13:00:00+01:00."


@command(group_options=True)
def history(
    call: Invocation,
    model: options.Model,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "--last", metavar="N", min=1, help=f"Only the newest N entries; {_LIMIT} if left out."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Entries since this time, ISO 8601 with time zone."),
    ] = None,
    action: Annotated[Action | None, typer.Option("--action", metavar="ACTION", help=f"Only: {_ACTIONS}.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All entries.")] = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="Show nothing; pack all but the newest 1,000 records in the store.")
    ] = False,
) -> None:
    """Show what happened to the versions of a model: the newest entries, oldest first."""
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.deployment import records

    _require_compatible(limit=limit, since=since, action=action, everything=everything, compact=compact)
    start = None if since is None else past_time(since, now=SystemClock().now())
    documents, group = _recorded(call, model), call.settings.group
    if compact:
        _compact(call, documents, model)
        return
    if limit is None and start is None and not everything:
        limit = _LIMIT
    shown = records.history(documents, group, model, limit=limit, since=start, action=action)
    call.answer(shown, lambda console: _show_history(console, shown))
    if len(shown) == limit and shown[0].sequence > 1 and not call.output.as_json:
        typer.echo(f"These are the newest {limit} entries; --limit N shows more, --all shows all.", err=True)


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
    documents, group = _recorded(call, model), call.settings.group
    served = records.version_at(documents, group, model, when)
    if served.version is None:
        sentence = f"No version of {model} answered `stable` at {readable_time(served.at)} UTC."
    else:
        sentence = (
            f"Version {served.version} of {model} answered `stable` at {readable_time(served.at)} UTC: "
            f"live since {readable_time(served.since)} UTC, moved by {served.actor}."
        )
    call.say(served, sentence)


def _recorded(call: Invocation, model: str) -> StateDocuments:
    """Return the state documents of the store; raise NotFound if they hold no record of `model`."""
    from tfs_deploy.deployment import records
    from tfs_deploy.errors import NotFound
    from tfs_deploy.names import check_model_name

    documents = call.existing_store().documents
    if not records.history(documents, call.settings.group, check_model_name(model), limit=1):
        raise NotFound(
            f"Group {call.settings.group!r} has no record of model {model!r} in {call.store().uri}.",
            "Check the name, the group and the store: tfs-deploy status lists the models of a group.",
        )
    return documents


def _require_compatible(**options: object) -> None:
    """Raise InvalidInput for options of `history` that exclude each other."""
    from tfs_deploy.errors import InvalidInput

    given = {name for name, value in options.items() if value not in (None, False)}
    if "compact" in given and len(given) > 1:
        raise InvalidInput("--compact shows no entries, and an option that chooses some is given.", "Give it alone.")
    if {"everything", "limit"} <= given:
        raise InvalidInput("Both --all and --limit are given.", "Give one of them.")


def _compact(call: Invocation, documents: StateDocuments, model: str) -> None:
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.deployment.record_packs import compact
    from tfs_deploy.names import plural

    settings = call.settings
    with call.show_progress() as progress:
        progress.begin(f"pack old records of {model}")
        done = compact(documents, settings.group, model, actor=settings.actor, clock=SystemClock())
    call.say(
        done,
        f"{plural(done.packed, 'record')} of {model} packed into {plural(done.packs, 'document')}; "
        f"{plural(done.remaining, 'record')} left in a document of its own each.",
    )


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
            Text(_action(record), style=_STYLES.get(record.action.value, "")),
            _version(record),
            record.actor,
            _reason(record),
        )
        for record in records
    ]
    print_table(console, columns, rows)


def _action(record: DeploymentRecord) -> str:
    return f"{record.action.value.replace('_', ' ')} {record.label}".rstrip()


def _version(record: DeploymentRecord) -> str:
    version = "none" if record.action is Action.UNDEPLOYED or not record.version else str(record.version)
    moved = record.action in MOVES_STABLE and record.previous is not None
    return f"{record.previous} -> {version}" if moved else version


def _reason(record: DeploymentRecord) -> str:
    """Return the reason, and the replicas that a move did not reach."""
    away = f"not reached: {', '.join(record.away)}" if record.away else ""
    return "\n".join(part for part in (record.reason, away) if part)


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
