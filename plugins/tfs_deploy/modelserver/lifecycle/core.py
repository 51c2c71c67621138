"""The server core: applies a ModelServerConfig step by step, and resolves the version of a request."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from tfs_deploy.clock import Clock
from tfs_deploy.modelserver.graph.servable import Servable
from tfs_deploy.modelserver.lifecycle import model_config
from tfs_deploy.modelserver.lifecycle.manager import (
    TICK_SECONDS,
    Executor,
    InlineExecutor,
    Loader,
    Manager,
    RetryOptions,
)
from tfs_deploy.modelserver.lifecycle.monitor import Event, EventBus, Monitor, ServableId, State
from tfs_deploy.modelserver.lifecycle.serving_map import Labels, ServingMap
from tfs_deploy.modelserver.lifecycle.source import Periodic, StoragePathSource, WatchedModel
from tfs_deploy.modelserver.status import Code, StatusError, failed_precondition, invalid_argument

logger = logging.getLogger(__name__)

_INITIAL_LOAD_THREADS = 4 * (os.cpu_count() or 1)  # `ServerCore::Options::num_initial_load_threads`


@dataclass(frozen=True, slots=True)
class CoreOptions:
    """The flags of versions and labels."""

    file_system_poll_wait_seconds: int = 1
    num_load_threads: int = 0
    num_unload_threads: int = 0
    retry: RetryOptions = field(default_factory=RetryOptions)
    allow_labels_for_unavailable: bool = False


class ServerCore:
    """Everything between a configuration and a version that answers."""

    def __init__(
        self, options: CoreOptions, loader_of: Callable[[ServableId, str], Loader[Servable]], clock: Clock
    ) -> None:
        self._options = options
        self._bus = EventBus()
        self.monitor = Monitor(self._bus)
        self._map: ServingMap[Servable] = ServingMap()
        self._manager: Manager[Servable] = Manager(
            bus=self._bus,
            serving_map=self._map,
            loader_of=loader_of,
            clock=clock,
            retry=options.retry,
            load_executor=InlineExecutor(),  # `_initial_load` sets the others
            unload_executor=_executor(options.num_unload_threads, "unload"),
        )
        self._clock = clock
        self._source: StoragePathSource | None = None  # until a first list of models was loaded
        self._ticker = Periodic(self._manager.tick, TICK_SECONDS, clock, name="manager")
        self._labels = Labels(self.monitor, options.allow_labels_for_unavailable)
        # One config at a time: a reload that waits for an empty directory blocks all others (contract 5.3).
        self._config_mutex = threading.Lock()
        self._config: Any = None

    def start(self) -> None:
        """Start the manager's thread; the source starts with the first list of models."""
        self._ticker.start()

    def stop(self) -> None:
        """Stop the threads; versions stay in memory."""
        if self._source is not None:
            self._source.stop()
        self._ticker.stop()

    def reload(self, config: Any) -> None:
        """Apply a ModelServerConfig in the steps of contract 5.2; an error does not undo earlier steps."""
        with self._config_mutex:
            first = self._config is None
            if not first and config.WhichOneof("config") != "model_config_list":
                raise failed_precondition(
                    "Cannot transition to requested config. It is only legal to transition from one ModelConfigList "
                    "to another."
                )
            if config.WhichOneof("config") is None:
                logger.info("Taking no action for empty config.")
                return
            if config.WhichOneof("config") == "custom_model_config":
                raise invalid_argument("custom_model_config is not supported by this model server")
            models = list(config.model_config_list.config)
            model_config.check_list(models)
            if not first:
                model_config.check_platforms_kept(self._config.model_config_list.config, models)
            self._config = config
            self._labels.replace(models)
            self._apply(models)
            if any(model.HasField("logging_config") for model in models):
                raise invalid_argument("No request-logger-creator provided.")

    def lease(self, spec: Any) -> AbstractContextManager[tuple[int, Servable]]:
        """Return a lease on the version of a ModelSpec: by number, by label, or the highest ready one."""
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            return self._map.lease(spec.name, self._labels.resolve(spec.name, spec.version_label))
        return self._map.lease(spec.name, spec.version.value if choice == "version" else None)

    def _apply(self, models: list[Any]) -> None:
        model_config.check_platforms_served(models)
        watched = [model_config.watched(model) for model in models]
        if self._source is None:
            self._initial_load(watched)
            return
        new_names = {model.name for model in watched} - self._source.model_names
        # A new monitor: rows of an earlier life of the same name must not end the wait.
        fresh = Monitor(self._bus)
        try:
            self._source.configure(watched)
            _raise_unless_available("model(s)", fresh.wait_for_outcomes(new_names))
        finally:
            fresh.close()

    def _initial_load(self, watched: list[WatchedModel]) -> None:
        """Load with many threads at start-up, then set the number of the flag.

        If the config file at start-up names no models, this is done by the first reload and, if that fails, by the next
        one again: with a new source that has no earlier models, and with rows that may have had their outcome before.
        """
        options = self._options
        source = StoragePathSource(self._manager.set_aspired, options.file_system_poll_wait_seconds, clock=self._clock)
        source.configure(watched)
        self._manager.use_load_executor(_executor(_INITIAL_LOAD_THREADS, "initial-load"))
        source.start()
        try:
            outcomes = self.monitor.wait_for_outcomes(model.name for model in watched)
        finally:
            self._manager.use_load_executor(_executor(options.num_load_threads, "load"))
        try:
            _raise_unless_available("servable(s)", outcomes)
        except StatusError:
            source.stop()
            raise
        self._source = source


def _executor(threads: int, name: str) -> Executor:
    return ThreadPoolExecutor(threads, thread_name_prefix=name) if threads > 0 else InlineExecutor()


def _raise_unless_available(kind: str, outcomes: Iterable[Event]) -> None:
    failed = [event for event in outcomes if event.state is not State.AVAILABLE]
    if failed:
        listed = "".join(f"{{{event.id}{_failure_text(event)}}}, " for event in failed)
        raise StatusError(Code.UNKNOWN, f"{len(failed)} {kind} did not become available: {{{listed}}}")


def _failure_text(event: Event) -> str:
    return "" if event.code is Code.OK else f" due to error: {event.health}"
