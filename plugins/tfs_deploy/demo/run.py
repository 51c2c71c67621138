"""``make demo``: from nothing to a refused and a promoted version, run by Airflow on embedded defaults.

Everything that it writes is in ``.demo/`` of the checkout; everything that it starts has ended when it returns.
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

from tfs_deploy.demo import findings, show
from tfs_deploy.demo.airflow_process import AirflowPlaces, airflow_process
from tfs_deploy.demo.gateway_process import gateway
from tfs_deploy.demo.site import SITES, Site
from tfs_deploy.demo.story import GROUP, MODEL, Story
from tfs_deploy.errors import InvalidInput, Refused, TFSDeployError

_CHECKOUT = Path(__file__).resolve().parents[3]
_INTERRUPTED = 130
_LOCK = "lock"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return 0 if everything went as told, 1 if something did not, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tfs_deploy.demo.run", description="Run the demo.")
    told = "directory for everything that is written; its subdirectories are removed first (%(default)s)"
    parser.add_argument("workspace", nargs="?", type=Path, default=_CHECKOUT / ".demo", help=told)
    told = "where the versions live: a directory, or S3 with a sync agent beside each model server (%(default)s)"
    parser.add_argument("--store", choices=sorted(SITES), default="disk", help=told)
    given = parser.parse_args(arguments)
    output = show.console()
    _end_like_ctrl_c()
    try:
        with _workspace(given.workspace.absolute()) as workspace:
            return _demo(workspace, SITES[given.store](workspace), output)
    except TFSDeployError as error:
        output.print(f"{error.cause} {error.remedy}", style="bold red", markup=False)
        return error.exit_code
    except KeyboardInterrupt:
        output.print("Interrupted; everything that was started has ended.", style="bold red")
        return _INTERRUPTED


def _demo(workspace: Path, site: AbstractContextManager[Site], output: Console) -> int:
    began = time.monotonic()
    progress = show.Progress(output)
    progress.chapter("Airflow on SQLite and the embedded model server")
    with contextlib.ExitStack() as running:
        with progress.waiting("starting"):
            serving = running.enter_context(site)
            places = AirflowPlaces(workspace / "airflow", _CHECKOUT / "dags", workspace / "log")
            airflow = running.enter_context(airflow_process(places, serving.connections))
            airflow.wait_until_ready()
        progress.say(f"Ready after {time.monotonic() - began:.0f} s; {serving.told}.")
        documents = serving.store.documents
        story = Story(airflow, serving.targets, documents, progress)
        story.tell()
        output.print()
        output.print(show.attempts_table(story.versions()))
        output.print(show.moves_table(findings.moves(documents, GROUP, MODEL)))
        progress.chapter("PNG in, digit out: the gateway")
        with progress.waiting("starting"):
            url = running.enter_context(gateway(serving.targets, MODEL, workspace))
        story.show_to_gateway(url, workspace / "gateway")
        output.print(show.digits_panel(story.read, "Held-out digits as PNG files, read through the gateway"))
    return _end(story.broken, time.monotonic() - began, workspace, output)


def _end(broken: list[str], seconds: float, workspace: Path, output: Console) -> int:
    if broken:
        output.print("This should have happened and did not:", style="bold red")
        for what in broken:
            output.print(f"  ✗ {what}", style="red", markup=False)
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
    """Empty `workspace` and give it; nobody else may use it at the same time."""
    if not (_CHECKOUT / "dags").is_dir():
        raise InvalidInput(f"There is no folder dags/ in {_CHECKOUT}.", "Run the demo in a checkout: make demo.")
    _check_ours(workspace)
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


def _check_ours(workspace: Path) -> None:
    """Refuse to empty a directory that no demo has written."""
    if workspace.exists() and not (workspace.is_dir() and (workspace / _LOCK).exists()) and any(_listed(workspace)):
        raise Refused(f"{workspace} holds something that no demo has written.", "Name an empty directory.")


def _listed(workspace: Path) -> Iterator[Path]:
    return workspace.iterdir() if workspace.is_dir() else iter((workspace,))


def _end_like_ctrl_c() -> None:
    """Let a termination unwind like Ctrl-C does, so that the children are ended."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        # Once is enough: a second signal must not stop the ending of the children.
        for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, on_signal)


if __name__ == "__main__":
    sys.exit(main())
