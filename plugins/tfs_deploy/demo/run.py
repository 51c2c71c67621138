"""``make demo``: train, deploy, refuse and roll back versions, run by Airflow with the embedded model server.

All files are in ``.demo/`` of the checkout; all child processes have ended when it returns.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout
from rich.console import Console

from tfs_deploy.demo import results, show
from tfs_deploy.demo.airflow_process import AirflowDirectories, airflow_process
from tfs_deploy.demo.environment import ENVIRONMENTS, Environment
from tfs_deploy.demo.gateway_process import gateway
from tfs_deploy.demo.scenario import GROUP, MODEL, Scenario
from tfs_deploy.errors import InvalidInput, Refused, TFSDeployError

_CHECKOUT = Path(__file__).resolve().parents[3]
_INTERRUPTED = 130
_LOCK = "lock"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return 0 if every expectation held, 1 if not, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tfs_deploy.demo.run", description="Run the demo.")
    workspace_help = "directory for all files; its subdirectories are removed first (%(default)s)"
    parser.add_argument("workspace", nargs="?", type=Path, default=_CHECKOUT / ".demo", help=workspace_help)
    store_help = "where versions are stored: a directory, or S3 with a sync agent per model server (%(default)s)"
    parser.add_argument("--store", choices=sorted(ENVIRONMENTS), default="disk", help=store_help)
    given = parser.parse_args(arguments)
    output = show.console()
    _interrupt_on_signals()
    try:
        with _workspace(given.workspace.absolute()) as workspace:
            return _demo(workspace, ENVIRONMENTS[given.store](workspace), output)
    except TFSDeployError as error:
        output.print(f"{error.cause} {error.remedy}", style="bold red", markup=False)
        return error.exit_code
    except KeyboardInterrupt:
        output.print("Interrupted; all child processes have ended.", style="bold red")
        return _INTERRUPTED


def _demo(workspace: Path, servers: AbstractContextManager[Environment], output: Console) -> int:
    began = time.monotonic()
    progress = show.Progress(output)
    progress.section("Airflow on SQLite and the embedded model server")
    with contextlib.ExitStack() as running:
        with progress.waiting("starting"):
            environment = running.enter_context(servers)
            directories = AirflowDirectories(workspace / "airflow", _CHECKOUT / "dags", workspace / "log")
            airflow = running.enter_context(airflow_process(directories, environment.connections))
            airflow.wait_until_ready()
        progress.say(f"Ready after {time.monotonic() - began:.0f} s; {environment.description}.")
        documents = environment.store.documents
        scenario = Scenario(airflow, environment.targets, documents, progress)
        scenario.run()
        output.print()
        output.print(show.attempts_tables(scenario.versions()))
        output.print(show.moves_table(results.moves(documents, GROUP, MODEL)))
        progress.section("PNG in, digit out: the gateway")
        with progress.waiting("starting"):
            url = running.enter_context(gateway(environment.targets, MODEL, workspace))
        scenario.ask_gateway(url, workspace / "gateway")
        output.print(show.digits_panel(scenario.answers, "Held-out digits as PNG files, by the gateway"))
    return _end(scenario.failures, time.monotonic() - began, workspace, output)


def _end(failures: list[str], seconds: float, workspace: Path, output: Console) -> int:
    if failures:
        output.print("These expectations did not hold:", style="bold red")
        for expectation in failures:
            output.print(f"  ✗ {expectation}", style="red", markup=False)
        output.print(f"See {workspace / 'log'}.", markup=False)
        return 1
    output.print(
        f"Done in {seconds:.0f} s. Nothing is left running; the store and the logs are in {workspace}.",
        style="green",
        markup=False,
    )
    return 0


@contextlib.contextmanager
def _workspace(workspace: Path) -> Iterator[Path]:
    """Empty and lock `workspace`."""
    if not (_CHECKOUT / "dags").is_dir():
        raise InvalidInput(f"There is no folder dags/ in {_CHECKOUT}.", "Run the demo in a checkout: make demo.")
    _check_owned(workspace)
    workspace.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workspace / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise Refused(f"Another demo runs in {workspace}.", "Wait for its end.") from error
    try:
        for entry in workspace.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
        yield workspace
    finally:
        lock.release()


def _check_owned(workspace: Path) -> None:
    """Refuse to empty a directory that no demo has written."""
    if workspace.exists() and not (workspace.is_dir() and (workspace / _LOCK).exists()) and any(_entries(workspace)):
        raise Refused(f"{workspace} holds files that no demo has written.", "Name an empty directory.")


def _entries(workspace: Path) -> Iterator[Path]:
    return workspace.iterdir() if workspace.is_dir() else iter((workspace,))


def _interrupt_on_signals() -> None:
    """Treat SIGTERM and SIGHUP like Ctrl-C, so that the child processes are ended."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        # A second signal must not interrupt the end of the child processes.
        for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, on_signal)


if __name__ == "__main__":
    sys.exit(main())
