"""The states of versions over time: an event bus, and monitors that keep the latest event of every version."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum

from tfs_deploy.modelserver.status import Code, StatusError


class State(IntEnum):
    """The manager's view of a version; the numbers are those of ``ModelVersionStatus.State``."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


_OUTCOME_STATES = (State.AVAILABLE, State.END)


@dataclass(frozen=True, slots=True, order=True)
class ServableId:
    """One version of one model."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.version}}}"


@dataclass(frozen=True, slots=True)
class Event:
    """A version entered a state; `code` and `message` are OK and empty without an error."""

    id: ServableId
    state: State
    code: Code = Code.OK
    message: str = ""

    @property
    def health(self) -> str:
        """Return the status as text, e.g. ``NOT_FOUND: ...``."""
        return str(StatusError(self.code, self.message))


class EventBus:
    """Passes each event to every subscriber, in order, and keeps none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: list[Callable[[Event], None]] = []

    def subscribe(self, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Call `subscriber` with each event from now on; return the function that ends it."""
        with self._lock:
            self._subscribers.append(subscriber)
        return lambda: self._unsubscribe(subscriber)

    def publish(self, event: Event) -> None:
        """Call every subscriber, which must not publish in turn."""
        with self._lock:
            for subscriber in self._subscribers:
                subscriber(event)

    def _unsubscribe(self, subscriber: Callable[[Event], None]) -> None:
        with self._lock:
            self._subscribers.remove(subscriber)


@dataclass(slots=True, eq=False)
class _Wait:
    """A wait until a version of each of `names` has an outcome."""

    names: tuple[str, ...]
    outcomes: tuple[Event, ...] | None = None


class Monitor:
    """The latest event of every version since the monitor was made; rows are never removed (contract 6)."""

    def __init__(self, bus: EventBus) -> None:
        self._changed = threading.Condition()
        self._rows: dict[str, dict[int, Event]] = {}
        self._waits: list[_Wait] = []
        self._close = bus.subscribe(self._observe)

    def close(self) -> None:
        """End the subscription."""
        self._close()

    def version(self, id_: ServableId) -> Event | None:
        """Return the row of one version."""
        with self._changed:
            return self._rows.get(id_.name, {}).get(id_.version)

    def versions(self, name: str) -> tuple[Event, ...]:
        """Return the rows of a model, the highest version first."""
        with self._changed:
            rows = self._rows.get(name, {})
            return tuple(rows[version] for version in sorted(rows, reverse=True))

    def wait_for_outcomes(self, names: Iterable[str]) -> tuple[Event, ...]:
        """Wait, without a limit, until a version of each model is AVAILABLE or at its END; return those rows.

        The first outcome decides for its model, so a quick failure hides a slow success (contract 20.11).
        """
        wait = _Wait(tuple(sorted(set(names))))
        with self._changed:
            wait.outcomes = self._outcomes(wait.names)
            self._waits.append(wait)
            self._changed.wait_for(lambda: wait.outcomes is not None)
            self._waits.remove(wait)
            return wait.outcomes or ()

    def _outcomes(self, names: tuple[str, ...]) -> tuple[Event, ...] | None:
        events = [self._outcome(name) for name in names]
        return tuple(event for event in events if event) if all(events) else None

    def _outcome(self, name: str) -> Event | None:
        rows = self._rows.get(name, {})
        return next((rows[v] for v in sorted(rows, reverse=True) if rows[v].state in _OUTCOME_STATES), None)

    def _observe(self, event: Event) -> None:
        with self._changed:
            self._rows.setdefault(event.id.name, {})[event.id.version] = event
            for wait in self._waits:
                # Not when the waiting thread wakes up: the version may be unloading by then.
                if wait.outcomes is None:
                    wait.outcomes = self._outcomes(wait.names)
            self._changed.notify_all()
