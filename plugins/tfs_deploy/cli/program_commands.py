"""Commands that run a program of this package in place of this process, and the one that removes dead containers."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from tfs_deploy.cli.invocation import Invocation, command
from tfs_deploy.errors import MissingExtra
from tfs_deploy.names import plural

# Module and package of what the gateway imports.
_GATEWAY = {
    "tornado": "tornado",
    "PIL": "pillow",
    "jinja2": "jinja2",
    "prometheus_client": "prometheus-client",
}


@command(group_options=False)
def gateway(
    call: Invocation,
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The gateway's YAML file.")],
    check: Annotated[bool, typer.Option("--check", help="Read and check the file, and end.")] = False,
) -> None:
    """Serve models over HTTP: JSON and uploads in, JSON out; ends gracefully on SIGTERM."""
    for module, package in _GATEWAY.items():
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(package, "gateway")
    options = [*(["--check"] if check else []), *(["--debug"] if call.output.debug else [])]
    exec_module("tfs_deploy.gateway", ["--config", str(config), *options])


@command(group_options=False)
def reap(
    call: Invocation,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and change nothing.")] = False,
) -> None:
    """Remove containers whose process has ended or whose time is over; the engine is that of DOCKER_HOST."""
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.containers.docker_engine import connect
    from tfs_deploy.containers.ownership import leftovers
    from tfs_deploy.containers.ownership import reap as run_reap

    engine = connect()
    try:
        containers = (leftovers if dry_run else run_reap)(engine, clock=SystemClock())
    finally:
        engine.close()
    data = [{"id": each.id, "name": each.name, "why": each.reason, "removed": not dry_run} for each in containers]
    if not containers:
        return call.say(data, "No container is left over.")
    verb = "Would remove" if dry_run else "Removed"
    reasons = "; ".join(f"{each.name or each.id[:12]} ({each.reason})" for each in containers)
    call.say(data, f"{verb} {plural(len(containers), 'container')}: {reasons}.")


def require_tensorflow() -> None:
    """Raise MissingExtra unless TensorFlow is installed; does not import it."""
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingExtra("tensorflow", "tensorflow")


def exec_model_server(arguments: list[str]) -> NoReturn:
    """Replace this process by the embedded model server, so that signals and the exit code are its own."""
    require_tensorflow()
    exec_module("tfs_deploy.modelserver", arguments)


def exec_module(module: str, arguments: list[str]) -> NoReturn:
    """Replace this process by ``python -m module``."""
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # No file in the working directory may be imported as a module (Python 3.11 and later).
    environment["PYTHONSAFEPATH"] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, "-m", module, *arguments]
    os.execve(sys.executable, command, environment)  # noqa: S606 - our own module, arguments as a list
