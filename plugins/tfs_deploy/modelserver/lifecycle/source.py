"""Polls the base paths and reports the aspired versions of each model (contract 3)."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.modelserver.status import StatusError, invalid_argument, of_os_error

logger = logging.getLogger(__name__)

# `absl::SimpleAtoi`: ASCII white space around, a sign, decimal digits, within 64 bits.
_INTEGER = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)[ \t\n\v\f\r]*", re.ASCII)
_MIN_VERSION, _MAX_VERSION = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class VersionPath:
    """A version and the directory that holds it."""

    version: int
    path: str


@dataclass(frozen=True, slots=True)
class Latest:
    """Aspire the highest versions; 0 means 1."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class All:
    """Aspire every version."""


@dataclass(frozen=True, slots=True)
class Specific:
    """Aspire the existing ones of `versions`."""

    versions: frozenset[int]


Policy = Latest | All | Specific


@dataclass(frozen=True, slots=True)
class WatchedModel:
    """A model with its versions below `base_path`."""

    name: str
    base_path: str
    policy: Policy = Latest()


class Files(Protocol):
    """The file system operations of the source."""

    def exists(self, path: str) -> bool:
        """Return whether `path` exists."""

    def children(self, path: str) -> Iterable[str]:
        """Return the names in the directory `path`; raise OSError."""


class LocalFiles:
    """The machine's own file system."""

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def children(self, path: str) -> Iterable[str]:
        return os.listdir(path)


def parse_version(name: str) -> int | None:
    """Return the version that a directory name means; None for a name that is no integer of 64 bits."""
    match = _INTEGER.fullmatch(name)
    if match is None:
        return None
    number = int(match[1])
    return number if _MIN_VERSION <= number <= _MAX_VERSION else None


Sink = Callable[[str, Sequence[VersionPath]], None]


class StoragePathSource:
    """Passes the aspired versions of each configured model to `sink` at every poll."""

    def __init__(
        self, sink: Sink, poll_wait_seconds: int, files: Files | None = None, clock: Clock | None = None
    ) -> None:
        self._sink = sink
        self._period = poll_wait_seconds
        self._files = files or LocalFiles()
        # Held for a whole poll: a slow listing delays reloads (contract 3.3).
        self._mutex = threading.Lock()
        self._models: tuple[WatchedModel, ...] = ()
        self._last_warnings: dict[str, str] = {}
        self._polling = Periodic(self.poll, poll_wait_seconds, clock or SystemClock(), name="file-system-poll")

    @property
    def model_names(self) -> frozenset[str]:
        """Return the names of the models that are configured now."""
        return frozenset(model.name for model in self._models)

    def configure(self, models: Iterable[WatchedModel]) -> None:
        """Replace the whole list: models that are left out are un-aspired now, others change at the next poll."""
        with self._mutex:
            replaced = tuple(models)
            kept = {model.name for model in replaced}
            for model in self._models:
                if model.name not in kept:
                    self._sink(model.name, ())
            self._models = replaced

    def start(self) -> None:
        """Start to poll: each period, once if it is 0, never if it is negative."""
        if self._period > 0:
            self._polling.start()
        elif self._period == 0:
            threading.Thread(target=self.poll, name="file-system-poll", daemon=True).start()

    def stop(self) -> None:
        """End polling."""
        self._polling.stop()

    def poll(self) -> None:
        """Poll once; an error for one model leaves every model unchanged (contract 3.3)."""
        with self._mutex:
            try:
                aspired = [(model.name, self._aspired(model)) for model in self._models]
            except StatusError as error:
                self._warn_once("", f"FileSystemStoragePathSource encountered a filesystem access error: {error}")
                return
            self._last_warnings.pop("", None)
            for name, versions in aspired:
                self._sink(name, versions)

    def _aspired(self, model: WatchedModel) -> tuple[VersionPath, ...]:
        if not self._files.exists(model.base_path):
            raise invalid_argument(
                f"Could not find base path {model.base_path} for servable {model.name} with error "
                f"NOT_FOUND: {model.base_path} not found"
            )
        if isinstance(model.policy, Specific):
            versions = self._specific(model, model.policy.versions)
        elif isinstance(model.policy, All):
            versions = self._listed(model)
        else:
            by_number = {path.version: path for path in self._listed(model)}
            versions = tuple(by_number[number] for number in sorted(by_number)[-max(model.policy.count, 1) :])
        if versions:
            self._last_warnings.pop(model.name, None)
        else:
            self._warn_once(
                model.name,
                f"No versions of servable {model.name} found under base path {model.base_path}. "
                "Did you forget to name your leaf directory as a number (eg. '/1/')?",
            )
        return versions

    def _specific(self, model: WatchedModel, wanted: frozenset[int]) -> tuple[VersionPath, ...]:
        # Canonical names first, as in TF Serving: one check each, and no listing if all exist.
        direct = {number: os.path.join(model.base_path, str(number)) for number in sorted(wanted)}
        if all(self._files.exists(path) for path in direct.values()):
            return tuple(VersionPath(number, path) for number, path in direct.items())
        by_number = {path.version: path for path in self._listed(model) if path.version in wanted}
        return tuple(by_number[number] for number in sorted(by_number))

    def _listed(self, model: WatchedModel) -> tuple[VersionPath, ...]:
        """Return the numbered children in the order of their names, with `001` before `1`."""
        try:
            names = sorted({name.partition("/")[0] for name in self._files.children(model.base_path)}, key=os.fsencode)
        except OSError as error:
            raise of_os_error(error) from error
        return tuple(
            VersionPath(number, os.path.join(model.base_path, name))
            for name in names
            if (number := parse_version(name)) is not None
        )

    def _warn_once(self, model: str, text: str) -> None:
        # Only on change: a missing base path would log one line per poll.
        if self._last_warnings.get(model) != text:
            self._last_warnings[model] = text
            logger.warning("%s", text)


logger = logging.getLogger(__name__)


class Periodic:
    """Calls `job` now and then every `seconds` from its last start, in its own thread, as ``PeriodicFunction``."""

    def __init__(
        self,
        job: Callable[[], object],
        seconds: float,
        clock: Clock,
        *,
        name: str,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        """Prepare; `wait` replaces the wait of some seconds that `stop` ends."""
        self._job = job
        self._seconds = seconds
        self._clock = clock
        self._name = name
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def stop(self) -> None:
        """End after the running call; return at once."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            begun = self._clock.monotonic()
            try:
                self._job()
            except Exception:  # a failed call must not end the later ones
                logger.exception("The job of %s failed", self._name)
            left = begun + self._seconds - self._clock.monotonic()
            if left > 0:
                self._wait(left)
