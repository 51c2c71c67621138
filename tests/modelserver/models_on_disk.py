"""Makes SavedModels in a process of their own, and puts copies of them where a model server watches."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from once import once_per_run

# This suite's models and those of the contract suite: one import of TensorFlow makes all.
SCRIPT = Path(__file__).parents[1] / "contract" / "model_server" / "make_models.py"


def models_of_this_run(factory: pytest.TempPathFactory) -> Path:
    """Return the SavedModels of both suites, by name; do not change them."""
    return once_per_run(factory, "model_server_models", lambda out: make_models(SCRIPT, out))


def make_models(script: Path, out: Path) -> Path:
    """Run a make_models.py, which needs TensorFlow; return the directory that it wrote, a SavedModel by name."""
    done = subprocess.run([sys.executable, str(script), str(out)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return out


def install_copy(source: Path, target: Path) -> Path:
    """Copy a SavedModel beside `target` and rename it: a server that watches sees all of it at once, or nothing."""
    staged = target.with_name(f"staged-{target.name}")
    shutil.copytree(source, staged)
    return staged.rename(target)
