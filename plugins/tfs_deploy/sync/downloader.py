"""Download of one version to the agent's disk, and the comparison of what lies there with the store.

A download gathers the files in a stage, compares them and gives the version its number by one rename.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Set
from pathlib import Path

from tfs_deploy.clock import Clock
from tfs_deploy.deployment.sync_agents import AgentErrorKind
from tfs_deploy.errors import CorruptModel, NotFound, TFSDeployError
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, Manifest
from tfs_deploy.store.local.filesystem import reporting
from tfs_deploy.store.protocol import Store
from tfs_deploy.sync.disk import ReplicaDisk
from tfs_deploy.sync.failures import kind_of
from tfs_deploy.sync.metrics import Metrics
from tfs_deploy.sync.plan import VersionName

logger = logging.getLogger(__name__)

_REMEDY = (
    "It may be live, so it is left alone: find out who put it there, and remove it by hand while no server serves it."
)


class Verification:
    """Remembers which version directories equal the store's version, once per life of the agent and directory."""

    def __init__(self, store: Store, disk: ReplicaDisk, *, deep: bool = False) -> None:
        """`deep` reads every byte of a directory, instead of names and sizes only."""
        self._store = store
        self._disk = disk
        self._deep = deep
        self._verified: dict[VersionName, tuple[int, int]] = {}

    def check(self, name: VersionName) -> None:
        """Compare a version directory with the store; raise CorruptModel if it differs."""
        directory = self._disk.directory(name)
        identity = self._disk.scan().ours.get(name)
        mine = manifests.read(directory)
        try:
            fingerprint = self._store.manifest(name.model, name.version).fingerprint
        except NotFound:
            # The store has deleted a version that a server still needs. The copy here is the only one, and its own
            # manifest says whether it is complete.
            fingerprint = mine.fingerprint
        if mine.fingerprint != fingerprint:
            raise CorruptModel(f"{str(directory)!r} holds {mine.fingerprint}, the store has {fingerprint}.", _REMEDY)
        try:
            manifests.verify(directory, mine, deep=self._deep)
        except CorruptModel as error:
            raise CorruptModel(error.cause, _REMEDY) from error
        if identity is not None:
            self._verified[name] = identity

    def mark_verified(self, name: VersionName) -> None:
        """Note that a download has verified the version."""
        identity = self._disk.scan().ours.get(name)
        if identity is not None:
            self._verified[name] = identity

    def verified(self, ours: Mapping[VersionName, tuple[int, int]]) -> Set[VersionName]:
        """Return those of `ours` that are verified and still the same directories."""
        return {name for name, identity in ours.items() if self._verified.get(name) == identity}


class DownloadCancelled(Exception):
    """The version is no longer needed, or the agent stops; the downloaded files stay in the stage."""


class Downloader:
    """Downloads and checks versions, in a thread beside the loop of the agent."""

    def __init__(
        self, store: Store, disk: ReplicaDisk, verification: Verification, metrics: Metrics, clock: Clock
    ) -> None:
        self._store = store
        self._disk = disk
        self._verification = verification
        self._metrics = metrics
        self._clock = clock

    def check(self, name: VersionName) -> None:
        """Compare a version that is on the disk already with the store."""
        with reporting("read", self._disk.directory(name), who="The sync agent"):
            self._verification.check(name)

    def download(self, name: VersionName, cancelled: threading.Event) -> None:
        """Download a version that is not on the disk; raise DownloadCancelled soon after `cancelled` is set.

        An interrupted download leaves the stage, and the next one fetches only what the stage lacks. A full disk gets
        the space of the stage back at once.
        """
        manifest = self._store.manifest(name.model, name.version)
        started = self._clock.monotonic()
        try:
            stage = self._disk.open_stage(name, size=manifest.total_bytes)
            self._store.download(name.model, name.version, stage, progress=_Counter(self._metrics, cancelled))
            _require_whole(stage, name, manifest)
        except TFSDeployError as error:
            if kind_of(error) is AgentErrorKind.DISK_FULL:
                self._disk.discard(name)
            raise
        # A server that follows the highest number must not see a version that was withdrawn during the download.
        if self._store.manifest(name.model, name.version).fingerprint != manifest.fingerprint:
            raise CorruptModel(f"The store has changed {name} meanwhile.", "Numbers are used once: publish anew.")
        if cancelled.is_set():
            raise DownloadCancelled
        self._disk.show(name)
        self._verification.mark_verified(name)
        seconds = self._clock.monotonic() - started
        self._metrics.add_version(seconds)
        logger.info("Downloaded %s, %s bytes in %.1f s", name, manifest.total_bytes, seconds)


class _Counter:
    """Counts the bytes of one download and cancels it between two blocks."""

    def __init__(self, metrics: Metrics, cancelled: threading.Event) -> None:
        self._metrics = metrics
        self._cancelled = cancelled
        self._done = 0

    def __call__(self, done: int) -> None:
        self._metrics.add_bytes(done - self._done)
        self._done = done
        if self._cancelled.is_set():
            raise DownloadCancelled


def _require_whole(stage: Path, name: VersionName, manifest: Manifest) -> None:
    with reporting("read", stage, who="The sync agent"):
        manifests.verify(stage, manifest, deep=False)
        if manifests.read(stage) != manifest:
            raise CorruptModel(
                f"The manifest of {name} differs from the store's {MANIFEST_PATH}.",
                "The agent fetches it again.",
            )
