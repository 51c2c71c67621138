"""A store in a directory and an agent on another one, in this process: transfers are done before `poll` returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contract.staged_versions import stage
from fakes import FakeClock
from tfs_deploy.deployment import desired_state, sync_agents
from tfs_deploy.deployment.desired_state import DesiredModel, DesiredState
from tfs_deploy.deployment.sync_agents import AgentErrorKind, AgentReport
from tfs_deploy.errors import Unreachable
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.store.local.filesystem import Filesystem
from tfs_deploy.store.local.store import LocalStore
from tfs_deploy.store.protocol import Store
from tfs_deploy.sync.agent import Agent
from tfs_deploy.sync.disk import ReplicaDisk, free_bytes
from tfs_deploy.sync.settings import AgentSettings

GROUP = "g"
DATA = "variables/variables.data-00000-of-00001"


def at_once(work: Callable[[], None]) -> Future[None]:
    """Run `work` now."""
    future: Future[None] = Future()
    try:
        work()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(None)
    return future


@dataclass
class Bench:
    """One store, one model root, a clock that stands still."""

    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    wrap: Callable[[Store], Any] = lambda store: store

    def __post_init__(self) -> None:
        self.store = LocalStore(self.folder / "store", clock=self.clock)
        self.root = self.folder / "models"
        self.startup_config = self.folder / "models.config"
        self._count = 0

    def publish(self, model: str = "m", weights: bytes | None = None) -> int:
        self._count += 1
        weights = b"weights %d" % self._count if weights is None else weights
        staged = stage(self.folder / f"staged-{self._count}", weights)
        return self.store.publish(*staged, model).version.version

    def want(self, **models: DesiredModel) -> None:
        """Make this the group's desired state."""
        documents = self.store.documents
        found = documents.read(desired_state.key(GROUP))
        body = to_json(DesiredState(models=models))
        documents.write(desired_state.key(GROUP), body, expected=found.tag if found else None)

    def agent(
        self,
        *,
        files: Filesystem | None = None,
        free: Callable[[Path], int] = free_bytes,
        store: Store | None = None,
        reports: bool = True,
        **more: Any,
    ) -> Agent:
        """Return a new agent, as after a restart."""
        disk = ReplicaDisk(self.root, files=files, free=free)
        disk.prepare()
        if not more.get("latest"):
            more.setdefault("startup_config", self.startup_config)
        settings = AgentSettings(GROUP, more.pop("name", "agent"), **more)
        return Agent(store or self.wrap(self.store), disk, settings, clock=self.clock, launch=at_once, reports=reports)

    def shown(self, model: str = "m") -> list[int]:
        """Return the numbers that a model server would see, each of which must be a whole version."""
        base = self.root / model
        numbers = sorted(int(path.name) for path in base.iterdir() if path.name.isdigit()) if base.is_dir() else []
        for number in numbers:
            manifests.verify(base / str(number), manifests.read(base / str(number)))
        return numbers

    def leftovers(self) -> list[str]:
        """Return everything below the model root that is neither a version nor the agent's own."""
        found = [path for path in self.root.glob("*/*") if not path.name.isdigit()]
        found += [path for path in self.folder.iterdir() if path.name.startswith(".")]
        return [path.name for path in found if path.parent.name != ".tfs_deploy_sync"]

    def report(self, name: str = "agent") -> AgentReport | None:
        document = self.store.documents.read(sync_agents.key(GROUP, name))
        return None if document is None else from_json(AgentReport, document.body)


def settle(agent: Agent, clock: FakeClock, passes: int = 50) -> None:
    """Make passes until nothing is left to do at once."""
    for _ in range(passes):
        agent.poll()
        if agent.status.ready:
            return
        clock.advance(0.01)


def labelled(*versions: int, stable: int, previous: int | None = None, model: str = "m") -> DesiredModel:
    labels = {"stable": stable} if previous is None else {"stable": stable, "previous": previous}
    return DesiredModel(f"/models/{model}", tuple(sorted({*versions, *labels.values()})), labels)


class Wrapped:
    """A store that counts what is asked of it and of its documents, and is away while `away` is set."""

    def __init__(self, store: Any, front: Wrapped | None = None) -> None:
        self._store = store
        self._front = front or self
        self.calls: Counter[str] = Counter()
        self.away = False

    @property
    def uri(self) -> str:
        return self._store.uri

    @property
    def documents(self) -> Any:
        return Wrapped(self._store.documents, self._front)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._front.away:
                raise Unreachable("The store does not answer.", "Wait.")
            self._front.calls[name] += 1
            return method(*args, **kwargs)

        return call


def problems(agent) -> list[tuple[AgentErrorKind, str, int]]:
    return [(each.kind, each.model, each.version) for each in agent.status.problems]


def damage(path: Path) -> bytes:
    """Change one byte of a file and return what it held."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return data
