"""Which version answers: an atomic map of the ready versions, swapped only when its readers are done."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

from tfs_deploy.modelserver.lifecycle.monitor import ServableId
from tfs_deploy.modelserver.status import not_found

T = TypeVar("T")


class _Epoch(Generic[T]):
    """One state of the map, and how many requests read it."""

    def __init__(self, ready: Mapping[ServableId, T]) -> None:
        self.ready = dict(ready)
        self.highest: dict[str, int] = {}
        for id_ in self.ready:
            self.highest[id_.name] = max(id_.version, self.highest.get(id_.name, id_.version))
        self.readers = 0


class ServingMap(Generic[T]):
    """The ready versions."""

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._epoch: _Epoch[T] = _Epoch({})

    @contextmanager
    def lease(self, name: str, version: int | None) -> Iterator[tuple[int, T]]:
        """Hold the version asked for, or the highest ready one, while a request uses it; raise NOT_FOUND."""
        with self._condition:
            epoch = self._epoch
            number = epoch.highest.get(name) if version is None else version
            servable = None if number is None else epoch.ready.get(ServableId(name, number))
            if number is None or servable is None:
                request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise not_found(f"Servable not found for request: {request}")
            epoch.readers += 1
        try:
            yield number, servable
        finally:
            with self._condition:
                epoch.readers -= 1
                if epoch.readers == 0 and epoch is not self._epoch:
                    self._condition.notify_all()

    def publish(self, ready: Mapping[ServableId, T]) -> None:
        """Answer from `ready` now; return when no request, of any model, uses the old map any more (contract 4.4)."""
        with self._condition:
            old, self._epoch = self._epoch, _Epoch(ready)
            self._condition.wait_for(lambda: old.readers == 0)
