"""The server core: applies a ModelServerConfig step by step, and finds the version that a request means."""

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
    """What the flags say about versions and labels."""

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
            load_executor=InlineExecutor(),  # `_load_first` brings the others
            unload_executor=_executor(options.num_unload_threads, "unload"),
        )
        self._clock = clock
        self._source: StoragePathSource | None = None  # until a first list of models was loaded
        self._ticker = Periodic(self._manager.tick, TICK_SECONDS, clock, name="manager")
        self._labels = Labels(self.monitor, options.allow_labels_for_unavailable)
        # One config at a time: a reload that waits for an empty directory holds up all others (contract 5.3).
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
        """Apply a ModelServerConfig, in the step order of contract 5.2; what was done before an error stays done."""
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
        """Return a hold on the version that a ModelSpec means: by number, by label, or the highest ready one."""
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
            self._load_first(watched)
            return
        new_names = {model.name for model in watched} - self._source.model_names
        # A fresh monitor: rows of an earlier life of the same name must not settle the wait.
        fresh = Monitor(self._bus)
        try:
            self._source.configure(watched)
            _raise_unless_available("model(s)", fresh.wait_until_settled(new_names))
        finally:
            fresh.close()

    def _load_first(self, watched: list[WatchedModel]) -> None:
        """Load with many threads at start-up, then go on with as many as the flag says.

        Where the file of the start named no models, this is done for the first reload, and if that fails, for the next
        one again: with a new source that knows of no model before, and with rows that may have settled long ago.
        """
        options = self._options
        source = StoragePathSource(self._manager.set_aspired, options.file_system_poll_wait_seconds, clock=self._clock)
        source.configure(watched)
        self._manager.use_load_executor(_executor(_INITIAL_LOAD_THREADS, "initial-load"))
        source.start()
        try:
            settled = self.monitor.wait_until_settled(model.name for model in watched)
        finally:
            self._manager.use_load_executor(_executor(options.num_load_threads, "load"))
        try:
            _raise_unless_available("servable(s)", settled)
        except StatusError:
            source.stop()
            raise
        self._source = source


def _executor(threads: int, name: str) -> Executor:
    return ThreadPoolExecutor(threads, thread_name_prefix=name) if threads > 0 else InlineExecutor()


def _raise_unless_available(what: str, settled: Iterable[Event]) -> None:
    failed = [event for event in settled if event.state is not State.AVAILABLE]
    if failed:
        listed = "".join(f"{{{event.id}{_reason(event)}}}, " for event in failed)
        raise StatusError(Code.UNKNOWN, f"{len(failed)} {what} did not become available: {{{listed}}}")


def _reason(event: Event) -> str:
    return "" if event.code is Code.OK else f" due to error: {event.health}"
