"""State that the downloads of small and of large files share; see `tfs_deploy.store.download.target`."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, TypeAlias

from tfs_deploy.errors import CorruptModel
from tfs_deploy.savedmodel.manifest import FileEntry
from tfs_deploy.store.local.filesystem import Filesystem, reporting
from tfs_deploy.store.protocol import Progress

log = logging.getLogger(__name__)

Block: TypeAlias = "bytes | memoryview"

WHO = "The download"
_BUFFER_BYTES = 1 << 20


class NoPieces(Exception):
    """The source gives whole files only."""


class Source(Protocol):
    """Source of the bytes of a version's files; used by many threads."""

    def begin(self, entry: FileEntry) -> None:
        """Check a large file before its pieces are read; raise CorruptModel if it is missing or has another size."""

    def blocks(self, entry: FileEntry, start: int, end: int) -> Iterable[Block]:
        """Yield the bytes of a file from `start` to before `end`, fewer if there are no more.

        Raises NoPieces, before the first block, if the source gives whole files only.
        """


class DownloadState:
    """Progress and existing files of one download; used by many threads."""

    def __init__(self, where: str, progress: Progress | None, files: Filesystem) -> None:
        """`where` names the version in errors."""
        self.where = where
        self.files = files
        self.stopped = threading.Event()
        self.present: set[Path] = set()
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        """Add `count` bytes to the progress."""
        if self._progress is not None and count:
            with self._lock:
                self._done += count
                self._progress(self._done)

    def is_complete(self, entry: FileEntry, path: Path) -> bool:
        """Tell whether the file exists, complete and flushed; remove a file with other bytes."""
        if path not in self.present:
            return False
        try:
            if path.stat().st_size == entry.size and _digest_of(path) == entry.sha256:
                with reporting("flush", path, who=WHO), path.open("rb") as stream:
                    self.files.sync(stream.fileno())  # the process that wrote it may have died before its flush
                return True
        except FileNotFoundError:
            return False
        except OSError as error:
            log.info("Fetching %s again, which cannot be read: %s", path, error)
        with reporting("remove", path, who=WHO):
            self.files.remove_file(path)
        return False

    def log_retry(self, entry: FileEntry, problem: str) -> None:
        """Log that a file arrived damaged, which may be the network's fault, and is fetched again."""
        log.info("Fetching %s of %s again: it arrived with %s", entry.path, self.where, problem)

    def corrupt(self, entry: FileEntry, problem: str) -> CorruptModel:
        """Return the error for a file that arrived damaged twice."""
        return CorruptModel(
            f"The file {entry.path!r} of {self.where} has {problem} instead of {entry.size} bytes with "
            f"{entry.sha256[:12]}....",
            "Withdraw that version and publish the model again.",
        )

    def drop(self, path: Path) -> None:
        """Remove a file that cannot be used."""
        try:
            self.files.remove_file(path)
        except OSError as error:
            log.warning("Left %s behind, the next download removes it: %s", path, error)


def problem_with(entry: FileEntry, size: int, digest: str) -> str:
    """Return how this size and SHA-256 (hex) differ from `entry`, empty if they are equal."""
    return "" if (size, digest) == (entry.size, entry.sha256) else f"{size} bytes with SHA-256 {digest[:12]}..."


def _digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    view = memoryview(bytearray(_BUFFER_BYTES))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(view):
            digest.update(view[:count])
    return digest.hexdigest()
