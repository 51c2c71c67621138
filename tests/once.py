"""Directories that are made once for all processes of a test run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def once_per_run(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]) -> Path:
    """Return the directory `name`, which the first process that asks for it fills; do not change it."""
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    directory = root / name
    with FileLock(f"{directory}.lock"):
        if not directory.with_suffix(".complete").exists():
            directory.mkdir(exist_ok=True)
            fill(directory)
            directory.with_suffix(".complete").touch()
    return directory
