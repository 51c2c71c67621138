"""Loads and unloads versions until the aspired ones serve (contract 4).

`next_action` is TF Serving's AvailabilityPreservingPolicy: it unloads the version that answers only when another one is
ready. The manager has no thread of its own: `tick` is the step that TF Serving's manager makes every 100 ms. Loads and
unloads run in executors; with an inline executor they run inside the tick, as with ``--num_load_threads=0``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from tfs_deploy.clock import Clock
from tfs_deploy.modelserver.lifecycle.monitor import Event, EventBus, ServableId, State
from tfs_deploy.modelserver.lifecycle.serving_map import ServingMap
from tfs_deploy.modelserver.lifecycle.source import VersionPath
from tfs_deploy.modelserver.status import Code, StatusError, of_exception

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1  # `AspiredVersionsManager::Options::manage_state_interval_micros`

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Phase(Enum):
    """The manager's progress with a version."""

    NEW = "new"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    DISABLED = "disabled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of one version for the policy."""

    version: int
    phase: Phase
    aspired: bool


@dataclass(frozen=True, slots=True)
class Action:
    """The load or the unload of a version."""

    unload: bool
    version: int


def next_action(snapshots: Iterable[Snapshot]) -> Action | None:
    """Return the next action for one model (contract 4.1)."""
    rows = tuple(snapshots)
    ready_unaspired = [row.version for row in rows if row.phase is Phase.READY and not row.aspired]
    any_aspired = any(row.aspired for row in rows)
    aspired_ready = any(row.aspired and row.phase is Phase.READY for row in rows)
    if ready_unaspired and (not any_aspired or aspired_ready or len(ready_unaspired) > 1):
        return Action(unload=True, version=min(ready_unaspired))
    new = [row.version for row in rows if row.aspired and row.phase is Phase.NEW]
    return Action(unload=False, version=max(new)) if new else None


def first_action(models: Mapping[str, Iterable[Snapshot]]) -> tuple[str, Action] | None:
    """Return the one action of a tick for all models: unloads before loads, then by name."""
    actions = [(name, action) for name in sorted(models) if (action := next_action(models[name])) is not None]
    return min(actions, key=lambda pair: not pair[1].unload) if actions else None


class Loader(Protocol[T_co]):
    """Loads one version into memory and unloads it."""

    def estimate(self) -> None:
        """Read the sizes of the files once, before the load; raise StatusError or OSError."""

    def load(self) -> T_co:
        """Return the servable; raise the error of the load, of any type."""

    def unload(self) -> None:
        """Release the memory; no request uses the version any more."""


class Executor(Protocol):
    """Runs jobs: a thread pool, or this thread."""

    def submit(self, job: Callable[..., Any], /, *args: Any) -> Any:
        """Run `job` later, or at once."""

    def shutdown(self, wait: bool = True) -> None:
        """Refuse more jobs; with `wait` return when the last one has ended."""


class InlineExecutor:
    """Runs each job at once in the calling thread."""

    def submit(self, job: Callable[..., Any], /, *args: Any) -> None:
        job(*args)

    def shutdown(self, wait: bool = True) -> None:
        pass


@dataclass(slots=True, eq=False)
class _Harness(Generic[T]):
    """One managed version."""

    id: ServableId
    loader: Loader[T]
    phase: Phase = Phase.NEW
    aspired: bool = True
    retries_cancelled: bool = False
    servable: T | None = None

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(self.id.version, self.phase, self.aspired)


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """How often a failed load is retried; a negative interval does not sleep."""

    max_retries: int = 5
    interval_seconds: float = 60.0


class Manager(Generic[T]):
    """Keeps the versions of all models, and moves them one action per tick."""

    def __init__(
        self,
        *,
        bus: EventBus,
        serving_map: ServingMap[T],
        loader_of: Callable[[ServableId, str], Loader[T]],
        clock: Clock,
        retry: RetryOptions,
        load_executor: Executor,
        unload_executor: Executor,
    ) -> None:
        self._bus = bus
        self._map = serving_map
        self._loader_of = loader_of
        self._clock = clock
        self._retry = retry
        self._load_executor_mutex = threading.Lock()
        self._load_executor = load_executor
        self._unload_executor = unload_executor
        # Held while the serving map is swapped, so a request that never ends blocks every transition (contract 4.4).
        self._mutex = threading.RLock()
        self._harnesses: dict[str, dict[int, _Harness[T]]] = {}
        self._pending_mutex = threading.Lock()
        self._pending: dict[str, tuple[VersionPath, ...]] = {}

    def set_aspired(self, name: str, versions: Sequence[VersionPath]) -> None:
        """Aspire exactly `versions` of a model; an earlier call that was not processed yet is overwritten."""
        with self._pending_mutex:
            self._pending[name] = tuple(versions)

    def use_load_executor(self, executor: Executor) -> None:
        """Use `executor` for loads when all loads of the old one have ended; until then no load begins.

        TF Serving's `SetNumLoadThreads`, because of which the ports open only after all loads that began meanwhile.
        """
        with self._load_executor_mutex:
            self._load_executor.shutdown(wait=True)
            self._load_executor = executor

    def tick(self) -> bool:
        """Apply the aspired versions and start at most one load or unload; return whether one was started."""
        with self._mutex:
            self._remove_finished()
            self._process_pending()
            chosen = first_action(
                {name: [h.snapshot for h in versions.values()] for name, versions in self._harnesses.items()}
            )
            if chosen is None:
                return False
            name, action = chosen
            harness = self._harnesses[name][action.version]
            harness.phase = Phase.UNLOADING if action.unload else Phase.LOADING
        if action.unload:
            self._unload_executor.submit(self._unload, harness)
        else:
            with self._load_executor_mutex:
                self._load_executor.submit(self._load, harness)
        return True

    def snapshots(self, name: str) -> tuple[Snapshot, ...]:
        """Return the managed versions of a model, for tests and diagnosis."""
        with self._mutex:
            return tuple(harness.snapshot for harness in self._harnesses.get(name, {}).values())

    def _remove_finished(self) -> None:
        """Remove versions that are neither aspired nor in memory; their rows in the monitors stay."""
        for versions in self._harnesses.values():
            for harness in list(versions.values()):
                if not harness.aspired and harness.phase in (Phase.NEW, Phase.DISABLED, Phase.ERROR):
                    del versions[harness.id.version]

    def _process_pending(self) -> None:
        with self._pending_mutex:
            for name, versions in list(self._pending.items()):
                if self._is_blocked(name, versions):
                    continue  # until those versions are removed, which may be never (contract 4.3)
                del self._pending[name]
                self._process(name, versions)

    def _is_blocked(self, name: str, versions: Sequence[VersionPath]) -> bool:
        managed = self._harnesses.get(name, {})
        return any(not managed[wanted.version].aspired for wanted in versions if wanted.version in managed)

    def _process(self, name: str, versions: Sequence[VersionPath]) -> None:
        managed = self._harnesses.setdefault(name, {})
        wanted = {version_path.version for version_path in versions}
        for harness in managed.values():
            if harness.id.version not in wanted:
                harness.aspired = False
                harness.retries_cancelled = True
        already = {number for number, harness in managed.items() if harness.aspired}
        for version, path in ((item.version, item.path) for item in versions):
            if version in already:
                continue
            id_ = ServableId(name, version)
            if version in managed:
                logger.error("This servable is already being managed: %s, from %s", id_, path)
                continue
            managed[version] = _Harness(id_, self._loader_of(id_, path))
            self._bus.publish(Event(id_, State.START))

    def _load(self, harness: _Harness[T]) -> None:
        # The estimate is retried under the mutex, as in TF Serving: it can freeze all transitions (contract 3.6).
        with self._mutex:
            failure = self._attempt("Reserving resources for", harness, harness.loader.estimate)
        if failure is not None:
            text = f"Error while attempting to reserve resources to load servable {harness.id}: {failure.message}"
            self._end(harness, Phase.ERROR, StatusError(failure.code, text))
            return
        self._bus.publish(Event(harness.id, State.LOADING))
        logger.info("Loading servable version %s", harness.id)
        failure = self._attempt("Loading", harness, lambda: self._load_once(harness))
        if failure is not None:
            logger.error("Servable %s cannot be loaded: %s", harness.id, failure)
            self._end(harness, Phase.ERROR, failure)
            return
        with self._mutex:
            wanted = not harness.retries_cancelled
            if wanted:
                harness.phase = Phase.READY
                self._map.publish(self._ready())
        if wanted:
            self._bus.publish(Event(harness.id, State.AVAILABLE))
            logger.info("Successfully loaded servable version %s", harness.id)
            return
        self._drop(harness)
        self._end(harness, Phase.DISABLED, StatusError(Code.CANCELLED, "Loading of servable cancelled"))

    def _load_once(self, harness: _Harness[T]) -> None:
        harness.servable = harness.loader.load()

    def _attempt(self, activity: str, harness: _Harness[T], job: Callable[[], None]) -> StatusError | None:
        """Run `job` until it succeeds or the retries are used up or cancelled; return the last failure."""
        tries = 0
        while True:
            if tries and self._retry.interval_seconds > 0:
                self._clock.sleep(self._retry.interval_seconds)
            try:
                job()
            except Exception as error:  # any failure is the status of this version, never of the server
                failure = of_exception(error)
            else:
                return None
            tries += 1
            if harness.retries_cancelled or tries > self._retry.max_retries:
                return failure
            logger.warning("%s servable %s failed, retry %s follows: %s", activity, harness.id, tries, failure)

    def _unload(self, harness: _Harness[T]) -> None:
        with self._mutex:
            self._bus.publish(Event(harness.id, State.UNLOADING))
            self._map.publish(self._ready())
        self._drop(harness)
        logger.info("Done unloading servable version %s", harness.id)
        self._end(harness, Phase.DISABLED, StatusError(Code.OK, ""))

    def _drop(self, harness: _Harness[T]) -> None:
        harness.servable = None
        try:
            harness.loader.unload()
        except Exception:  # the version is out of the map already; memory may leak, the server goes on
            logger.exception("The memory of %s may not be released", harness.id)

    def _end(self, harness: _Harness[T], phase: Phase, outcome: StatusError) -> None:
        with self._mutex:  # a version that is aspired again must not get its START before this END
            harness.phase = phase
            self._bus.publish(Event(harness.id, State.END, outcome.code, outcome.message))

    def _ready(self) -> dict[ServableId, T]:
        return {
            harness.id: harness.servable
            for versions in self._harnesses.values()
            for harness in versions.values()
            if harness.phase is Phase.READY and harness.servable is not None
        }
