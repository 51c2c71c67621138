"""Commands that only look: `status`, `history`, `what-served`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tfs_deploy.cli import exit_codes, options
from tfs_deploy.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from tfs_deploy.deployment.records import DeploymentRecord


@command(somewhere=True)
def status(
    call: Invocation,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Name of one model; all if left out.")] = None,
) -> None:
    """Show per model which version is live, and what every replica holds.

    Ends with 1 if a replica drifted from what it should hold, with 3 if one could not be asked.
    """
    from tfs_deploy.cli.status_answer import answer_of
    from tfs_deploy.cli.status_view import show_status
    from tfs_deploy.deployment.steps.status import status as run_status
    from tfs_deploy.names import check_model_name

    if model is not None:
        check_model_name(model)
    with call.session() as session:
        answer = answer_of(session, run_status(session, model))
    call.answer(answer, lambda console: show_status(console, answer))
    if answer.unreachable:
        call.exit_code = exit_codes.COULD_NOT_TELL
    elif answer.drift:
        call.exit_code = exit_codes.REFUSED


@command(somewhere=True)
def history(
    call: Invocation,
    model: options.Model,
    last: Annotated[int | None, typer.Option("--last", metavar="N", min=1, help="Only the newest N entries.")] = None,
) -> None:
    """Show everything that happened to the versions of a model, oldest first."""
    from tfs_deploy.cli.history_view import show_history
    from tfs_deploy.deployment import records

    entries = _known(call, model, records.history(call.store().documents, call.settings.group, _checked(model)))
    shown = entries[-last:] if last else entries
    call.answer(shown, lambda console: show_history(console, shown))


@command(somewhere=True)
def what_served(
    call: Invocation,
    model: options.Model,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="ISO 8601 with time zone, e.g. 2026-11-22T12:00Z; without it: now."),
    ] = None,
) -> None:
    """Say which version answered `stable` at a moment, by the record."""
    from tfs_deploy.cli.timestamps import past, readable
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.deployment import records

    now = SystemClock().now()
    when = now if at is None else past(at, now=now)
    documents, group = call.store().documents, call.settings.group
    _known(call, model, records.history(documents, group, _checked(model)))
    served = records.version_at(documents, group, model, when)
    if served.version is None:
        told = f"No version of {model} answered `stable` at {readable(served.at)} UTC."
    else:
        told = (
            f"Version {served.version} of {model} answered `stable` at {readable(served.at)} UTC: "
            f"live since {readable(served.since)} UTC, moved by {served.actor}."
        )
    call.say(served, told)


def _checked(model: str) -> str:
    from tfs_deploy.names import check_model_name

    return check_model_name(model)


def _known(call: Invocation, model: str, records: tuple[DeploymentRecord, ...]) -> tuple[DeploymentRecord, ...]:
    from tfs_deploy.errors import NotFound

    if not records:
        raise NotFound(
            f"Group {call.settings.group!r} has no record of model {model!r} in {call.store().uri}.",
            "Check the name, the group and the store: tfs-deploy status lists the models of a group.",
        )
    return records
