"""A serving group in memory: a store whose versions the fake model servers serve, and what must always hold of both.

Nothing of it takes real time, so thousands of interleavings can be tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from deployment.scheduler import Scheduled, ScheduledStore, Scheduler
from fakes import FakeClient, FakeModelServer, FakeRpcError, FakeVersion
from saved_model_files import BEHAVIOUR
from store_fake import FakeStore
from tfs_deploy.deployment import desired_state, validation_results
from tfs_deploy.deployment.desired_state import DesiredState
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.names import PLACEHOLDER
from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.serving.group import ServingGroup
from tfs_deploy.store.protocol import Progress, Published
from tfs_deploy.validation.report import Verdict

ROOT = "/models"
GROUP = "default"


def _refuse(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    raise FakeRpcError("INVALID_ARGUMENT", "the first version is loading")


def _version_of(behaviour: str) -> FakeVersion:
    if behaviour.startswith("broken"):
        return FakeVersion(broken="Specified file path does not appear to contain a SavedModel bundle")
    offset = 3.0 if behaviour.startswith("wrong") else 2.0
    return FakeVersion(function=lambda inputs: {"y": (inputs["x"] / 2 + offset).astype(np.float32)})


class ServedStore(FakeStore):
    """A store in memory whose versions and placeholders the model servers read."""

    def __init__(self, servers: list[FakeModelServer], scheduler: Scheduler, group: MemoryGroup) -> None:
        super().__init__(clock=scheduler, uri=ROOT)
        self.placeholders: set[str] = set()
        self._servers = servers
        self._group = group

    def publish(
        self, staged: Path, manifest: Manifest, model: str, *, above: int = 0, progress: Progress | None = None
    ) -> Published:
        published = super().publish(staged, manifest, model, above=above, progress=progress)
        if published.created:
            number = published.version.version
            behaviour = self.read(model, number, BEHAVIOUR).decode()
            for server in self._servers:
                server.put(f"{ROOT}/{model}", number, _version_of(behaviour))
        return published

    def put_placeholder(self, model: str) -> None:
        super().put_placeholder(model)
        self.placeholders.add(model)
        for server in self._servers:
            server.put(f"{ROOT}/{model}", PLACEHOLDER, FakeVersion(function=_refuse))

    def remove_placeholder(self, model: str) -> None:
        super().remove_placeholder(model)
        if model in self.placeholders:
            self._group.require_unused(model, PLACEHOLDER)
            self.placeholders.remove(model)
            for server in self._servers:
                server.remove(f"{ROOT}/{model}", PLACEHOLDER)

    def _remove(self, model: str, version: int) -> None:
        stored = version in self.versions(model)
        if stored:
            self._group.require_unused(model, version)
        super()._remove(model, version)
        if stored:
            for server in self._servers:
                server.remove(f"{ROOT}/{model}", version)


class MemoryGroup:
    """A group of two replicas and its store; `check` raises where `stable` is not answered as it must be."""

    def __init__(self, startup_config: Path) -> None:
        self.scheduler = Scheduler(self.check, self._tick)
        self.servers = [FakeModelServer(f"replica-{number}:8500", immediate=False) for number in (1, 2)]
        self.store = ServedStore(self.servers, self.scheduler, self)
        targets = tuple(server.target for server in self.servers)
        self.group = ServingGroup(GROUP, targets, ROOT, startup_config=str(startup_config))
        self.live: dict[str, list[int]] = {}
        """By model the versions that answered `stable` on every replica, one after the other."""
        self._answering: dict[tuple[str, str], int] = {}

    def session(self, actor: str) -> GroupSession:
        """Return a session of one deployer whose every operation is scheduled."""
        clients = {
            server.target: Scheduled(FakeClient(server, clock=self.scheduler), self.scheduler)
            for server in self.servers
        }
        return GroupSession(
            ScheduledStore(self.store, self.scheduler), self.group, clients, actor, clock=self.scheduler
        )

    def state(self) -> DesiredState:
        """Return the desired state."""
        return desired_state.read(self.store.documents, self.group)

    def check(self) -> None:
        """Assert that `stable` answers, from a version that had passed its gates when the label moved (I1, I2)."""
        for server, model, stable in self._labels():
            assert server.state(model, stable) == "AVAILABLE", f"{server.target}: stable of {model} dangles"
            if self._answering.get((server.target, model)) != stable:
                assert self.has_passed(model, stable), f"{model} {stable} has not passed"
                self._answering[server.target, model] = stable
        for target, model in self._answering:
            server = next(each for each in self.servers if each.target == target)
            assert "stable" in server.labels.get(model, {}), f"{target} lost stable of {model}"
            versions = {each.labels.get(model, {}).get("stable") for each in self.servers}
            history = self.live.setdefault(model, [])
            if len(versions) == 1 and history[-1:] != [*versions]:
                history.extend(version for version in versions if version is not None)

    def has_passed(self, model: str, version: int) -> bool:
        """Tell whether there is a passing report on the version."""
        report = validation_results.read(self.store.documents, GROUP, model, version)
        return report is not None and report.verdict is Verdict.PASS

    def require_unused(self, model: str, version: int) -> None:
        """Assert that nobody uses the version whose files go now (I5)."""
        desired = self.state().models.get(model)
        used = {*desired.versions, *desired.labelled} if desired else set()
        assert version not in used, f"{model} {version} is in the desired state"
        for server in self.servers:
            assert version not in server.labels.get(model, {}).values(), f"{server.target} labels {model} {version}"
            state = server.state(model, version)
            assert state in (None, "END", "START"), f"{server.target} holds {model} {version}: {state}"

    def _labels(self) -> Iterator[tuple[FakeModelServer, str, int]]:
        for server in self.servers:
            for model, labels in server.labels.items():
                if "stable" in labels:
                    yield server, model, labels["stable"]

    def _tick(self) -> None:
        for server in self.servers:
            server.tick()
