"""The embedded model server as a child process; it, or another program of this package, in place of this one."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn

from tfs_deploy.errors import MissingExtra
from tfs_deploy.serving.runner import EmbeddedRunner


def runner(python: str | None) -> EmbeddedRunner:
    """Return what runs a throw-away server; raise MissingExtra if this interpreter would run it without TensorFlow."""
    if python is None:
        require_tensorflow()
    return EmbeddedRunner(python=python)


def require_tensorflow() -> None:
    """Raise MissingExtra unless TensorFlow is installed; looks for it and does not import it."""
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingExtra("tensorflow", "tensorflow")


def become_model_server(arguments: list[str]) -> NoReturn:
    """Replace this process by the embedded model server, so that signals and the exit code are its own."""
    require_tensorflow()
    exec_module("tfs_deploy.modelserver", arguments)


def exec_module(module: str, arguments: list[str]) -> NoReturn:
    """Replace this process by ``python -m module``."""
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # No file in the working directory may pass for a module (Python 3.11 and later).
    environment["PYTHONSAFEPATH"] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, "-m", module, *arguments]
    os.execve(sys.executable, command, environment)  # noqa: S606 - our own module, arguments as a list
