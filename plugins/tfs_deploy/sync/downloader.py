"""Bring one version: gather it in a stage, compare it, and give it its number by one rename."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from tfs_deploy.clock import Clock
from tfs_deploy.deployment.sync_agents import AgentErrorKind
from tfs_deploy.errors import CorruptModel, TFSDeployError
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, Manifest
from tfs_deploy.store.local.filesystem import reporting
from tfs_deploy.store.protocol import Store
from tfs_deploy.sync.disk import ReplicaDisk
from tfs_deploy.sync.failures import kind_of
from tfs_deploy.sync.figures import Figures
from tfs_deploy.sync.plan import VersionName
from tfs_deploy.sync.verification import Trust

logger = logging.getLogger(__name__)


class Abandoned(Exception):
    """Nobody needs the version any more, or the agent stops; what has been brought stays in the stage."""


class Downloader:
    """Does what takes long: runs outside the loop that watches the desired state."""

    def __init__(self, store: Store, disk: ReplicaDisk, trust: Trust, figures: Figures, clock: Clock) -> None:
        self._store = store
        self._disk = disk
        self._trust = trust
        self._figures = figures
        self._clock = clock

    def check(self, name: VersionName) -> None:
        """Compare a version that lies here already with the store."""
        with reporting("read", self._disk.directory(name), who="The sync agent"):
            self._trust.check(name)

    def bring(self, name: VersionName, abandoned: threading.Event) -> None:
        """Bring a version that is not here; raise Abandoned soon after `abandoned` is set.

        An interrupted run leaves the stage, and the next one fetches only what is missing in it. A disk that is full
        gets its room back at once.
        """
        manifest = self._store.manifest(name.model, name.version)
        started = self._clock.monotonic()
        try:
            stage = self._disk.open_stage(name, size=manifest.total_bytes)
            self._store.download(name.model, name.version, stage, progress=_Counter(self._figures, abandoned))
            _require_whole(stage, name, manifest)
        except TFSDeployError as error:
            if kind_of(error) is AgentErrorKind.DISK_FULL:
                self._disk.discard(name)
            raise
        # It may have been withdrawn while it was on its way: a server that follows the highest number would take it.
        if self._store.manifest(name.model, name.version).fingerprint != manifest.fingerprint:
            raise CorruptModel(f"The store has changed {name} meanwhile.", "Numbers are used once: publish anew.")
        if abandoned.is_set():
            raise Abandoned
        self._disk.show(name)
        self._trust.accept(name)
        seconds = self._clock.monotonic() - started
        self._figures.brought(seconds)
        logger.info("Brought %s, %s bytes in %.1f s", name, manifest.total_bytes, seconds)


class _Counter:
    """Counts the bytes of one download, and breaks it off between two blocks."""

    def __init__(self, figures: Figures, abandoned: threading.Event) -> None:
        self._figures = figures
        self._abandoned = abandoned
        self._done = 0

    def __call__(self, done: int) -> None:
        self._figures.received(done - self._done)
        self._done = done
        if self._abandoned.is_set():
            raise Abandoned


def _require_whole(stage: Path, name: VersionName, manifest: Manifest) -> None:
    with reporting("read", stage, who="The sync agent"):
        manifests.verify(stage, manifest, deep=False)
        if manifests.read(stage) != manifest:
            raise CorruptModel(
                f"The manifest of {name} came as another one than the store's {MANIFEST_PATH}.",
                "The agent fetches it again.",
            )
