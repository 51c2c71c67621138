"""The command that runs a sync agent: as a service beside a model server, or once before the server starts."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfs_deploy.cli import exit_codes
from tfs_deploy.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from tfs_deploy.sync.agent import Agent
    from tfs_deploy.sync.run import RunResult
    from tfs_deploy.sync.settings import AgentSettings

_WHAT = "What to download"
_HOW = "How to run"
# A store that does not answer must not delay the end: the files on the disk are complete at any time.
_LAST_SECONDS = 2.5


@dataclass(frozen=True, slots=True)
class SyncFlags:
    """The options of `sync`."""

    latest: Annotated[
        list[str] | None,
        typer.Option(
            "--latest",
            metavar="MODEL",
            help="Download the highest version of MODEL, for a server with --model_base_path; may be given again. "
            "Without it: what the group's desired state needs.",
            rich_help_panel=_WHAT,
        ),
    ] = None
    keep: Annotated[
        int,
        typer.Option(
            "--keep",
            metavar="N",
            min=0,
            help="How many versions of a model stay that are no longer needed.",
            rich_help_panel=_WHAT,
        ),
    ] = 2
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Check every byte of the files that are there already, not only names and sizes.",
            rich_help_panel=_WHAT,
        ),
    ] = False
    startup_config: Annotated[
        Path | None,
        typer.Option(
            "--startup-config",
            metavar="FILE",
            help="Keep the file current that the model server reads when it starts (--model_config_file).",
            rich_help_panel=_WHAT,
        ),
    ] = None
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Name of this agent in the group; the host's if not given."),
    ] = None
    poll: Annotated[
        float,
        typer.Option("--poll", metavar="SECONDS", help="Time between two reads of the store.", rich_help_panel=_HOW),
    ] = 1.0
    once: Annotated[
        bool,
        typer.Option(
            "--once",
            help="Download what is needed and end: 0 all is there, 1 refused, 3 could not tell.",
            rich_help_panel=_HOW,
        ),
    ] = False
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            min=0.0,
            help="With --once: how long to wait for a desired state or a first version, and to try again.",
            rich_help_panel=_HOW,
        ),
    ] = 0.0
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
    ] = None
    metrics_host: Annotated[
        str,
        typer.Option(
            "--metrics-host",
            metavar="ADDRESS",
            help="Address of that port; probes and Prometheus come from outside the pod.",
            rich_help_panel=_HOW,
        ),
    ] = "0.0.0.0"  # noqa: S104 - the help says so; names and numbers of versions, nothing else

    def settings(self, group: str) -> AgentSettings:
        """Return what the agent of `group` takes."""
        from tfs_deploy.sync.settings import AgentSettings

        return AgentSettings(
            group,
            socket.gethostname() if self.name is None else self.name,
            tuple(self.latest or ()),
            keep=self.keep,
            poll=self.poll,
            startup_config=self.startup_config,
            deep=self.verify,
        )


@command(group_options=True)
def sync(
    call: Invocation,
    model_root: Annotated[
        Path, typer.Option("--model-root", metavar="DIR", help="Directory to fill; the model server reads it.")
    ],
    flags: SyncFlags,
) -> None:
    """Download versions from the store to the disk of a model server, and keep there what its group needs."""
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.errors import InvalidInput
    from tfs_deploy.sync.agent import Agent
    from tfs_deploy.sync.disk import ReplicaDisk
    from tfs_deploy.sync.run import run_once, run_until

    if flags.wait and not flags.once:
        raise InvalidInput("--wait is for --once.", "Leave it out: without --once the agent waits for ever.")
    settings = flags.settings(call.settings.group)
    store, clock, disk = call.store(), SystemClock(), ReplicaDisk(model_root)
    disk.require_apart_from(store.directory)
    disk.prepare()
    if not flags.once:
        _log_actions(debug=call.output.debug)
    agent = Agent(store, disk, settings, clock=clock, reports=not flags.once)
    stop, code = threading.Event(), exit_codes.TERMINATED if flags.once else exit_codes.DONE
    with disk.locked(clock), _stop_on_signals(agent, stop, code) as signals, _metrics_server(agent, flags):
        if flags.once:
            done = run_once(agent, stop, seconds=flags.wait, clock=clock)
            call.say(done, _sentence(done))
            call.exit_code = exit_codes.TERMINATED if signals else _exit_code(done)
            return
        _logger().info("Sync agent %s of group %s fills %s", settings.name, settings.group, disk.root)
        run_until(agent, stop)
        _logger().info("Stopped; what was on its way goes on at the next start")


@contextmanager
def _stop_on_signals(agent: Agent, stop: threading.Event, code: int) -> Iterator[list[int]]:
    """Stop `agent` at SIGTERM and SIGINT during the block; yield the list of signals that arrive.

    The process ends with `code` by force where the agent has not stopped after `_LAST_SECONDS`.
    """
    signals: list[int] = []

    def end(signum: int, frame: FrameType | None) -> None:
        signals.append(signum)
        stop.set()
        agent.wake.set()
        forced = threading.Timer(_LAST_SECONDS, os._exit, (code,))
        forced.daemon = True
        forced.start()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _metrics_server(agent: Agent, flags: SyncFlags) -> Any:
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.sync.http_server import serve_http

    if flags.metrics_port is None:
        return nullcontext()
    return serve_http(flags.metrics_host, flags.metrics_port, agent.metrics, SystemClock(), poll=agent.settings.poll)


def _logger() -> logging.Logger:
    return logging.getLogger("tfs_deploy.sync")


def _log_actions(*, debug: bool) -> None:
    """Log every action with its time: the log is the only output of an agent."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("tfs_deploy")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)


def _exit_code(done: RunResult) -> int:
    from tfs_deploy.sync.run import Outcome

    codes = {Outcome.REFUSED: exit_codes.REFUSED, Outcome.COULD_NOT_TELL: exit_codes.COULD_NOT_TELL}
    return codes.get(done.outcome, exit_codes.DONE)


def _sentence(done: RunResult) -> str:
    from tfs_deploy.sync.run import Outcome

    needed = sum(len(versions) for versions in done.needed.values())
    outcome = {
        Outcome.DONE: "The version that is needed is here."
        if needed == 1
        else f"All {needed} versions that are needed are here.",
        Outcome.NOTHING_NEEDED: f"Group {done.group} has no desired state yet, so nothing is needed.",
        Outcome.REFUSED: "Not everything that is needed can be downloaded.",
        Outcome.COULD_NOT_TELL: "Not everything that is needed is here yet.",
    }[done.outcome]
    without = [f"Model {model} has no version." for model in done.without_version]
    return " ".join([outcome, *without, *(problem.message for problem in done.problems)])
