"""The command `status`: once, or again and again with --watch."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Annotated

import typer

from tfs_deploy.cli import exit_codes
from tfs_deploy.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.text import Text

    from tfs_deploy.cli.status_answer import StatusAnswer


@command(group_options=True)
def status(
    call: Invocation,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Name of one model; all if left out.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Print only what differs; for a monitor, which reads the exit code.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.1, max=3600.0, help="Pause of --watch.")
    ] = 2.0,
) -> None:
    """Show per model which version is live, what every replica holds since when, and everything that differs.

    Ends with 1 if a replica drifted from what it should hold, else with 3 if one could not be asked.
    """
    from tfs_deploy.cli.status_view import show_status
    from tfs_deploy.errors import InvalidInput
    from tfs_deploy.names import check_model_name

    if model is not None:
        check_model_name(model)
    if watch and (check or call.output.as_json):
        raise InvalidInput(
            "--watch was given with --check or --json, which show one status.", "Leave out one of the two."
        )
    if watch:
        _watch(call, model, interval)
        return
    answer = _ask(call, model)
    call.answer(answer, lambda console: show_status(console, answer, only_findings=check))
    if answer.drift:
        call.exit_code = exit_codes.REFUSED
    elif answer.unreachable:
        call.exit_code = exit_codes.COULD_NOT_TELL


def _ask(call: Invocation, model: str | None) -> StatusAnswer:
    from tfs_deploy.cli.status_answer import answer_of
    from tfs_deploy.deployment.steps.status import status as run_status

    with call.session(reads_only=True) as session:
        return answer_of(session, run_status(session, model))


def _watch(call: Invocation, model: str | None, interval: float) -> None:
    """Show the status every `interval` seconds until Ctrl-C: in place on a terminal, one after the other elsewhere."""
    from rich.live import Live

    from tfs_deploy.cli.tables import stdout_console

    console = stdout_console()
    last = None
    try:
        if console.is_terminal:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                for last in _statuses(call, model, interval, console):
                    live.update(last, refresh=True)
        else:
            for text in _statuses(call, model, interval, console):
                console.print(text)
    except exit_codes.Terminated:
        raise
    except KeyboardInterrupt:
        # The screen of the redrawn status is gone; its last one stays in the terminal.
        if last is not None:
            console.print(last)


def _statuses(call: Invocation, model: str | None, interval: float, console: Console) -> Iterator[Text]:
    """Yield the status as it is printed on `console`, with a pause after each; an error that may pass in its place.

    The group is opened anew each time, so that replicas that its name resolves to may come and go.
    """
    from rich.console import Console
    from rich.text import Text

    from tfs_deploy.cli.status_view import show_status
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.errors import Transient

    while True:
        drawn = Console(file=io.StringIO(), width=console.width, force_terminal=console.is_terminal, highlight=False)
        drawn.print(f"{SystemClock().now():%Y-%m-%d %H:%M:%S} UTC, every {interval:g} s, Ctrl-C ends")
        try:
            show_status(drawn, _ask(call, model), findings_first=True)
        except Transient as error:
            drawn.print(Text(str(error), style="red"))
        yield Text.from_ansi(drawn.file.getvalue())  # type: ignore[attr-defined]
        time.sleep(interval)
