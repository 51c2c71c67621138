"""The command line on a serving group in memory: two fake model servers, a real directory store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from fakes import FakeModelServer, FakeVersion
from saved_model_files import BEHAVIOUR, write_saved_model
from tfs_deploy.cli.main import app
from tfs_deploy.savedmodel.requests import GoldenRequest

MODEL = "half_plus_two"
TARGETS = ("replica-1:8500", "replica-2:8500")
X = np.array([1.0, 2.0, 5.0], dtype=np.float32)
GOLDEN = (GoldenRequest("serving_default", {"x": X}, {"y": X / 2 + 2}),)


@dataclass
class Ran:
    """What a command line left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Desk:
    """A place to type commands at."""

    folder: Path
    servers: dict[str, FakeModelServer]
    store: Path

    def run(self, *arguments: object, where: bool = True) -> Ran:
        """Run one command line in this process; `where` names store and servers as flags."""
        flags = ("--store", str(self.store), "--target", ",".join(self.servers)) if where else ()
        result = CliRunner().invoke(app, [*map(str, arguments), *flags])
        return Ran(result.exit_code, result.stdout, result.stderr)

    def staged(self, behaviour: str) -> Path:
        directory = self.folder / "staged" / behaviour.replace(" ", "_")
        return directory if directory.exists() else write_saved_model(directory, behaviour, golden=GOLDEN)

    def stable(self) -> list[int | None]:
        return [server.labels.get(MODEL, {}).get("stable") for server in self.servers.values()]


def behave(path: Path) -> FakeVersion:
    """Return what a fake server makes of a version directory: its behaviour file decides."""
    behaviour = (path / BEHAVIOUR).read_text().split()[0]
    if behaviour == "broken":
        return FakeVersion(broken="Specified file path does not appear to contain a SavedModel bundle")
    offset = 3.0 if behaviour == "wrong" else 2.0
    return FakeVersion(function=lambda inputs: {"y": (inputs["x"] / 2 + offset).astype(np.float32)})


def deployed(desk: Desk, *behaviours: str) -> None:
    """Deploy a SavedModel of each behaviour, one after the other."""
    for behaviour in behaviours:
        ran = desk.run("deploy", desk.staged(behaviour), "--model", MODEL)
        assert ran.code == 0, ran.err
