"""A manager with everything around it in the test's hand: jobs, clock, failures. No threads, no TensorFlow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone

from tfs_deploy.modelserver.lifecycle.manager import InlineExecutor, Manager, RetryOptions
from tfs_deploy.modelserver.lifecycle.monitor import Event, EventBus, Monitor, ServableId, State
from tfs_deploy.modelserver.lifecycle.serving_map import ServingMap
from tfs_deploy.modelserver.lifecycle.source import VersionPath
from tfs_deploy.modelserver.status import Code, StatusError


class Jobs:
    """An executor whose jobs run when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self._changed = threading.Condition()

    def submit(self, job, /, *args) -> None:
        self.waiting.append(lambda: job(*args))

    def run(self, index: int = 0) -> None:
        self.waiting[index]()
        with self._changed:
            self.waiting.pop(index)
            self._changed.notify_all()

    def shutdown(self, wait: bool = True) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not wait or not self.waiting)


@dataclass
class HandClock:
    """A clock that only a sleep moves; `during_sleep` happens meanwhile."""

    slept: list[float] = field(default_factory=list)
    during_sleep: Callable[[], None] = lambda: None

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=timezone.utc)

    def monotonic(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.during_sleep()


class World:
    """A manager with everything around it in the test's hand."""

    def __init__(self, *, retries: int = 0, inline: bool = False) -> None:
        self.bad: set[tuple[str, int]] = set()
        self.attempts: list[ServableId] = []
        self.unloaded: list[ServableId] = []
        self.events: list[Event] = []
        self.clock = HandClock()
        self.map: ServingMap[str] = ServingMap()
        self.loads, self.unloads = Jobs(), Jobs()
        bus = EventBus()
        bus.subscribe(self.events.append)
        self.monitor = Monitor(bus)
        self.manager: Manager[str] = Manager(
            bus=bus,
            serving_map=self.map,
            loader_of=lambda id_, path: FakeLoader(self, id_),
            clock=self.clock,
            retry=RetryOptions(retries, 7.0),
            load_executor=InlineExecutor() if inline else self.loads,
            unload_executor=InlineExecutor() if inline else self.unloads,
        )

    def aspire(self, *versions: int, name: str = "m") -> None:
        self.manager.set_aspired(name, [VersionPath(version, f"/{name}/{version}") for version in versions])

    def settle(self, ticks: int = 30) -> None:
        for _ in range(ticks):
            self.manager.tick()
            for jobs in (self.loads, self.unloads):
                while jobs.waiting:
                    jobs.run()

    def states(self, name: str = "m") -> dict[int, State]:
        return {event.id.version: event.state for event in self.monitor.versions(name)}

    def history(self, version: int, name: str = "m") -> list[State]:
        return [event.state for event in self.events if event.id == ServableId(name, version)]

    def answers(self, name: str = "m", version: int | None = None) -> int | None:
        try:
            with self.map.lease(name, version) as (number, _):
                return number
        except StatusError:
            return None


@dataclass
class FakeLoader:
    world: World
    id: ServableId

    def estimate(self) -> None:
        pass

    def load(self) -> str:
        self.world.attempts.append(self.id)
        if (self.id.name, self.id.version) in self.world.bad:
            raise StatusError(Code.NOT_FOUND, f"{self.id} is broken")
        return str(self.id)

    def unload(self) -> None:
        self.world.unloaded.append(self.id)
