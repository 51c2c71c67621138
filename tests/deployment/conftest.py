"""A serving group in memory on a real directory store: two replicas, a clock that tests move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from deployment_names import MODEL
from fakes import FakeClient, FakeClock, FakeModelServer, FakeVersion
from saved_model_files import BEHAVIOUR, write_saved_model
from tfs_deploy.deployment.session import GroupSession, Timeouts
from tfs_deploy.deployment.steps.load import load, wait_until_available
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.publish import publish
from tfs_deploy.deployment.steps.validate import validate
from tfs_deploy.savedmodel.requests import GoldenRequest
from tfs_deploy.serving.group import Mode, ServingGroup
from tfs_deploy.serving.waiting import WaitLimits
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import Store
from tfs_deploy.validation.config import Gates

X = np.array([1.0, 2.0, 5.0], dtype=np.float32)
GOLDEN = (GoldenRequest("serving_default", {"x": X}, {"y": X / 2 + 2}),)


def behave(path: Path) -> FakeVersion:
    """Return what a fake server makes of a version directory: its behaviour file decides."""
    behaviour = (path / BEHAVIOUR).read_text().split()[0]
    if behaviour == "broken":
        return FakeVersion(broken="Specified file path does not appear to contain a SavedModel bundle")
    offset = 3.0 if behaviour == "wrong" else 2.0
    return FakeVersion(function=lambda inputs: {"y": (inputs["x"] / 2 + offset).astype(np.float32)})


@dataclass
class Workbench:
    """Everything that a test of a step needs."""

    folder: Path
    store: Store
    servers: list[FakeModelServer]
    clock: FakeClock
    group: ServingGroup
    session: GroupSession
    passed: set[int] = field(default_factory=set)

    def staged(self, behaviour: str) -> Path:
        """Return a staged export with golden requests that only a `good…` version answers rightly."""
        directory = self.folder / "staged" / behaviour.replace(" ", "_")
        return directory if directory.exists() else write_saved_model(directory, behaviour, golden=GOLDEN)

    def publish(self, behaviour: str) -> int:
        return publish(self.session, self.staged(behaviour), MODEL).version.version

    def validated(self, behaviour: str) -> int:
        """Publish, load and validate a version; return its number."""
        version = self.publish(behaviour)
        load(self.session, MODEL, version)
        wait_until_available(self.session, MODEL, version)
        validate(self.session, MODEL, version, Gates())
        return version

    def promoted(self, behaviour: str) -> int:
        version = self.validated(behaviour)
        promote(self.session, MODEL, version)
        return version

    def stable(self) -> list[int | None]:
        """Return what label `stable` answers on each replica."""
        return [server.labels.get(MODEL, {}).get("stable") for server in self.servers]

    def answers(self) -> list[int]:
        """Ask `stable` on each replica as a client would, and return the versions that answered."""
        clients = [FakeClient(server) for server in self.servers]
        return [client.predict(MODEL, {"x": X}, label="stable", timeout=30.0).version for client in clients]


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return make_bench(tmp_path)


@pytest.fixture
def make() -> Callable[..., Workbench]:
    return make_bench


def make_bench(folder: Path, *, replicas: int = 2, mode: Mode = Mode.LABELS) -> Workbench:
    clock = FakeClock()
    root = folder / "store"
    root.mkdir()
    store = open_store(str(root), clock=clock)
    servers = [FakeModelServer(f"replica-{number}:8500", discover=behave) for number in range(1, replicas + 1)]
    group = ServingGroup(
        "default",
        tuple(server.target for server in servers),
        str(root),
        mode=mode,
        startup_config=str(folder / "models.config"),
    )
    session = GroupSession(
        store,
        group,
        {server.target: FakeClient(server) for server in servers},
        actor="a test",
        clock=clock,
        timeouts=Timeouts(),
        wait=WaitLimits(),
    )
    return Workbench(folder, store, servers, clock, group, session)
