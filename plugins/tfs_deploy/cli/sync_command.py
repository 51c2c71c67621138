"""The command that runs a sync agent: for good beside a model server, or once before it starts."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfs_deploy.cli import exit_codes
from tfs_deploy.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from tfs_deploy.sync.agent import Agent
    from tfs_deploy.sync.run import Once

_WHAT = "What to bring"
_HOW = "How to run"
# A store that does not answer must not hold up the end: everything on the disk is safe at any moment.
_LAST_SECONDS = 2.5


@command(somewhere=True)
def sync(
    call: Invocation,
    model_root: Annotated[
        Path, typer.Option("--model-root", metavar="DIR", help="Directory to fill; the model server reads it.")
    ],
    latest: Annotated[
        list[str] | None,
        typer.Option(
            "--latest",
            metavar="MODEL",
            help="Bring the highest version of MODEL, for a server with --model_base_path; may be given again. "
            "Without it: what the group's desired state needs.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    keep: Annotated[
        int,
        typer.Option(
            "--keep",
            metavar="N",
            min=0,
            help="How many versions of a model stay that are no longer needed.",
            rich_help_panel=_WHAT,
        ),
    ] = 2,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read every byte of what is there already, not names and sizes only.",
            rich_help_panel=_WHAT,
        ),
    ] = False,
    startup_config: Annotated[
        Path | None,
        typer.Option(
            "--startup-config",
            metavar="FILE",
            help="Keep the file current that the model server reads when it starts (--model_config_file).",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Name of this agent in the group; the host's if not given."),
    ] = None,
    poll: Annotated[
        float,
        typer.Option("--poll", metavar="SECONDS", help="Between two looks at the store.", rich_help_panel=_HOW),
    ] = 1.0,
    once: Annotated[
        bool,
        typer.Option(
            "--once",
            help="Bring what is needed and end: 0 all is there, 1 refused, 3 could not tell.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            min=0.0,
            help="With --once: how long to wait for a desired state or a first version, and to try again.",
            rich_help_panel=_HOW,
        ),
    ] = 0.0,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            metavar="PORT",
            min=0,
            max=65535,
            help="Answer /healthz, /readyz and /metrics there; 0 for a free port; off if not given.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    metrics_host: Annotated[
        str,
        typer.Option(
            "--metrics-host",
            metavar="ADDRESS",
            help="Address of that port; probes and Prometheus come from outside the pod.",
            rich_help_panel=_HOW,
        ),
    ] = "0.0.0.0",  # noqa: S104 - told in the help; names and numbers of versions, nothing else
) -> None:
    """Bring versions from the store to the disk beside a model server, and keep there what its group needs."""
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.errors import InvalidInput
    from tfs_deploy.sync.agent import Agent
    from tfs_deploy.sync.disk import ReplicaDisk
    from tfs_deploy.sync.run import run_once, run_until
    from tfs_deploy.sync.settings import AgentSettings

    if wait and not once:
        raise InvalidInput("--wait is for --once.", "Leave it out: without --once the agent waits for ever.")
    settings = AgentSettings(
        call.settings.group,
        socket.gethostname() if name is None else name,
        tuple(latest or ()),
        keep=keep,
        poll=poll,
        startup_config=startup_config,
        deep=verify,
    )
    store, clock, disk = call.store(), SystemClock(), ReplicaDisk(model_root)
    disk.require_apart_from(store.uri)
    disk.prepare()
    if not once:
        _log_as_a_program(debug=call.debug)
    agent = Agent(store, disk, settings, clock=clock, reports=not once)
    stop, code = threading.Event(), exit_codes.TERMINATED if once else exit_codes.DONE
    with disk.locked(clock), _stopping(agent, stop, code) as signals, _port(agent, metrics_host, metrics_port):
        if once:
            done = run_once(agent, stop, seconds=wait, clock=clock)
            call.say(done, _sentence(done))
            call.exit_code = exit_codes.TERMINATED if signals else _exit_code(done)
            return
        _logger().info("Sync agent %s of group %s fills %s", settings.name, settings.group, disk.root)
        run_until(agent, stop)
        _logger().info("Stopped; what was on its way goes on at the next start")


@contextmanager
def _stopping(agent: Agent, stop: threading.Event, code: int) -> Iterator[list[int]]:
    """Let SIGTERM and SIGINT end the loop in the block, by force with `code` if it hangs; yield what came."""
    came: list[int] = []

    def end(signum: int, frame: FrameType | None) -> None:
        came.append(signum)
        stop.set()
        agent.wake.set()
        forced = threading.Timer(_LAST_SECONDS, os._exit, (code,))
        forced.daemon = True
        forced.start()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _port(agent: Agent, host: str, port: int | None) -> Any:
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.sync.http_server import listening

    if port is None:
        return nullcontext()
    return listening(host, port, agent.figures, SystemClock(), poll=agent.settings.poll)


def _logger() -> logging.Logger:
    return logging.getLogger("tfs_deploy.sync")


def _log_as_a_program(*, debug: bool) -> None:
    """Log what is done, with the time, as a program does whose log is all that anybody sees of it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("tfs_deploy")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)


def _exit_code(done: Once) -> int:
    from tfs_deploy.sync.run import Outcome

    codes = {Outcome.REFUSED: exit_codes.REFUSED, Outcome.COULD_NOT_TELL: exit_codes.COULD_NOT_TELL}
    return codes.get(done.outcome, exit_codes.DONE)


def _sentence(done: Once) -> str:
    from tfs_deploy.sync.run import Outcome

    needed = sum(len(versions) for versions in done.needed.values())
    told = {
        Outcome.DONE: f"All {needed} versions that are needed are here.",
        Outcome.NOTHING_NEEDED: f"Group {done.group} has no desired state yet, so nothing is needed.",
        Outcome.REFUSED: "Not everything that is needed could be brought.",
        Outcome.COULD_NOT_TELL: "Not everything that is needed is here yet.",
    }[done.outcome]
    without = [f"Model {model} has no version." for model in done.without_version]
    return " ".join([told, *without, *(problem.message for problem in done.problems)])
