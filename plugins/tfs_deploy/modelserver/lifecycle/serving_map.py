"""Which version answers: an atomic map of the ready versions, and the map of labels (contract 5.4).

A new map of ready versions is published only when no request reads the old one any more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tfs_deploy.modelserver.lifecycle.monitor import Monitor, ServableId, State
from tfs_deploy.modelserver.status import Code, StatusError, failed_precondition, invalid_argument, not_found

T = TypeVar("T")


class _Epoch(Generic[T]):
    """One state of the map, with the number of requests that read it."""

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
        """Lease the version, or the highest ready one, while a request uses it; raise NOT_FOUND."""
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
        """Answer from `ready` now; return when no request of any model uses the old map (contract 4.4)."""
        with self._condition:
            old, self._epoch = self._epoch, _Epoch(ready)
            self._condition.wait_for(lambda: old.readers == 0)


LabelMap = dict[str, dict[str, int]]


@dataclass(slots=True)
class Labels:
    """The labels in force, which are replaced as a whole."""

    monitor: Monitor
    allow_unavailable: bool
    _map: LabelMap | None = None  # until the first config that lists models

    def replace(self, models: Iterable[Any]) -> None:
        """Set the labels of a config; raise FAILED_PRECONDITION and change nothing if one is not allowed."""
        replacement: LabelMap = {}
        for model in models:
            for label, version in model.version_labels.items():
                if not self._allowed(model.name, label, version):
                    raise failed_precondition(
                        f"Request to assign label to version {version} of model {model.name}, "
                        "which is not currently available for inference"
                    )
                replacement.setdefault(model.name, {})[label] = version
        self._map = replacement

    def resolve(self, model: str, label: str) -> int:
        """Return the version of `label`; raise INVALID_ARGUMENT for an unknown one, also on an unknown model."""
        if self._map is None:
            raise StatusError(Code.UNAVAILABLE, f"Model labels does not init yet.{label}")
        version = self._map.get(model, {}).get(label)
        if version is None:
            raise invalid_argument(f"Unrecognized servable version label: {label}")
        return version

    def _allowed(self, model: str, label: str, version: int) -> bool:
        event = self.monitor.version(ServableId(model, version))
        if event is not None and event.state is State.AVAILABLE:
            return True
        # A label in use must not move to a version that cannot answer, even with the flag.
        return self.allow_unavailable and (self._map or {}).get(model, {}).get(label, version) == version
