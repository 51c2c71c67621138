"""The command line on real model servers: child processes, and snapshots that tell whether anything changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from cli.desk import Ran
from tfs_deploy.cli.main import app
from tfs_deploy.serving.client import connect

PLUS_TWO = "half_plus_two_2_versions/00000123"
PLUS_TWO_AGAIN = "half_plus_two_2_versions/00000124"
PLUS_TWO_TF2 = "half_plus_two_tf2_cpu/00000123"
PLUS_THREE = "half_plus_three/00000123"
X = np.array([[1.0], [2.0], [5.0]], dtype=np.float32)


@dataclass
class Site:
    """A store and the replicas that serve it."""

    store: Path
    targets: tuple[str, ...]

    def where(self) -> tuple[str, ...]:
        return ("--store", str(self.store), "--target", ",".join(self.targets))

    def run(self, *arguments: object) -> Ran:
        """Run one command line in this process; flags in `arguments` come last, so they win."""
        result = CliRunner().invoke(app, [str(arguments[0]), *self.where(), *map(str, arguments[1:])])
        return Ran(result.exit_code, result.stdout, result.stderr)

    def child(self, *arguments: object, by: Sequence[str] = ()) -> Ran:
        """Run one command line in a process of its own."""
        return child(arguments[0], *self.where(), *arguments[1:], by=by)

    def answers(self, model: str) -> list[tuple[int, list[float]]]:
        """Ask `stable` on each replica as a client would: version and answers."""
        found = []
        for target in self.targets:
            client = connect(target)
            reply = client.predict(model, {"x": X}, label="stable", timeout=60.0)
            found.append((reply.version, reply.outputs["y"].ravel().tolist()))
            client.close()
        return found

    def snapshot(self) -> dict[str, bytes]:
        """Return every file of the store but the leases and the locks, which every change takes and gives back."""
        files = (path for path in self.store.rglob("*") if path.is_file())
        held = {str(path.relative_to(self.store)): path for path in files}
        return {
            name: path.read_bytes()
            for name, path in held.items()
            if not name.endswith("lease.json") and "/leases/" not in name and "/.locks/" not in name
        }


def child(*arguments: object, environ: Mapping[str, str] | None = None, by: Sequence[str] = ()) -> Ran:
    """Run ``python -m tfs_deploy.cli``, started by the program `by`, and return what it left."""
    done = subprocess.run(
        [*by, sys.executable, "-m", "tfs_deploy.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **(environ or {})},
        timeout=480,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def copy_of(source: Path, target: Path, *, without: str = "") -> Path:
    """Copy a SavedModel that may be read-only, without one of its folders."""
    shutil.copytree(source, target, ignore=lambda folder, names: [without] if without in names else [])
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def told(ran: Ran) -> str:
    """Return the one sentence of a refused command, whatever progress stands before it."""
    assert ran.out == ""
    last = ran.err.splitlines()[-1]
    assert last.startswith("tfs-deploy: ")
    assert "Traceback" not in ran.err
    return last


def as_json(ran: Ran) -> dict[str, object]:
    """Return the error of a refused command with --json."""
    error = json.loads(ran.out)
    assert error.keys() == {"error", "remedy", "exit_code"}
    assert error["exit_code"] == ran.code
    return error
