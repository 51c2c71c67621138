"""A model server that watches a directory while programs that fill it are broken and killed.

It is the embedded server's own source, manager and monitor, with every version aspired and no retries; what it loads
are not tensors but all bytes of a version, compared with its manifest. So whatever becomes visible is loaded at once,
and what is not whole ends with an error, as it would in TensorFlow Serving.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from looking_on import looking_on
from tfs_deploy.clock import SystemClock
from tfs_deploy.errors import TFSDeployError
from tfs_deploy.modelserver.lifecycle.manager import InlineExecutor, Manager, RetryOptions
from tfs_deploy.modelserver.lifecycle.monitor import Event, EventBus, Monitor, State
from tfs_deploy.modelserver.lifecycle.serving_map import ServingMap
from tfs_deploy.modelserver.lifecycle.source import All, StoragePathSource, WatchedModel
from tfs_deploy.modelserver.status import Code, StatusError
from tfs_deploy.savedmodel import manifest as manifests

# Between two looks of the thread; the programs under test need some air.
_PAUSE_SECONDS = 0.002


@dataclass(frozen=True)
class _WholeVersion:
    """Loads a version by reading all of it."""

    path: str

    def estimate(self) -> None:
        if not Path(self.path).is_dir():
            raise StatusError(Code.NOT_FOUND, f"{self.path} is no directory")

    def load(self) -> str:
        directory = Path(self.path)
        try:
            manifest = manifests.read(directory)
            manifests.verify(directory, manifest, deep=True)
        except TFSDeployError as error:
            raise StatusError(Code.DATA_LOSS, str(error)) from error
        return manifest.fingerprint

    def unload(self) -> None:
        return None


class WatchingServer:
    """Watches the models below `root`; `look` may be called by any thread, and `watching` calls it all the time."""

    def __init__(
        self, root: Path, models: Iterable[str] = ("m",), *, stable: Mapping[str, Collection[int]] | None = None
    ) -> None:
        """`stable`: versions per model, one of which must answer at every look from the first one at which one does."""
        self.looks = 0
        self.violations: list[str] = []
        self._stable = dict(stable or {})
        self._answered: set[str] = set()
        self._map: ServingMap[str] = ServingMap()
        self._lock = threading.Lock()
        bus = EventBus()
        bus.subscribe(self._note)
        self._monitor = Monitor(bus)
        self._manager: Manager[str] = Manager(
            bus=bus,
            serving_map=self._map,
            loader_of=lambda _, path: _WholeVersion(path),
            clock=SystemClock(),
            retry=RetryOptions(0, 0.0),
            load_executor=InlineExecutor(),
            unload_executor=InlineExecutor(),
        )
        self._source = StoragePathSource(self._manager.set_aspired, 0)
        self._source.configure(WatchedModel(model, str(root / model), All()) for model in models)

    def look(self) -> None:
        """Poll once, load and unload what that asks for, and ask for the stable versions."""
        with self._lock:
            self._source.poll()
            while self._manager.tick():
                pass
            self.looks += 1
            for model, versions in self._stable.items():
                self._ask(model, versions)

    def available(self, model: str = "m") -> list[int]:
        """Return the versions that answer now."""
        return sorted(event.id.version for event in self._monitor.versions(model) if event.state is State.AVAILABLE)

    def expect(self, model: str, *versions: int) -> None:
        """Look, and check that exactly `versions` answer and that nothing was ever wrong."""
        self.look()
        assert self.available(model) == list(versions), (self.available(model), versions)
        self.check()

    def check(self) -> None:
        """Fail if anything incomplete was ever shown, or a stable version did not answer."""
        assert not self.violations, "; ".join(self.violations)

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Look at nothing for the block: a fork there copies no lock that another thread holds."""
        with self._lock:
            yield

    @contextlib.contextmanager
    def watching(self) -> Iterator[WatchingServer]:
        """Look in a thread for the block, and check at the end."""
        self.look()
        with looking_on(self.look, pause=_PAUSE_SECONDS, name="watching-server"):
            yield self
        self.look()
        self.check()

    def _note(self, event: Event) -> None:
        if event.code is not Code.OK:
            self.violations.append(f"{event.id} {event.state.name}: {event.health}")

    def _ask(self, model: str, versions: Collection[int]) -> None:
        if any(self._answers(model, version) for version in versions):
            self._answered.add(model)
        elif model in self._answered:
            self.violations.append(f"{model} no longer answers in any of its stable versions {sorted(versions)}")

    def _answers(self, model: str, version: int) -> bool:
        try:
            with self._map.lease(model, version):
                return True
        except StatusError:
            return False
