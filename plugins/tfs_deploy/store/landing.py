"""Bring the files of a version into a directory: the side of a download that is the same for every store."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfs_deploy.errors import CorruptModel, NotFound
from tfs_deploy.jsonable import to_json
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, FileEntry, Manifest
from tfs_deploy.store.local.filesystem import Filesystem, remove_tree, reporting, write_new_file
from tfs_deploy.store.protocol import Progress

log = logging.getLogger(__name__)

Fetch = Callable[[FileEntry], Iterable["bytes | memoryview"]]

_WHO = "The download"
_BUFFER_BYTES = 1 << 20
# Files from this size on are few and fill the line or the disk; smaller ones wait for answers.
LARGE_FILE_BYTES = 8 << 20
_LARGE_THREADS = 4


class Landing:
    """Puts what `fetch` yields for each file of `manifest` into a directory, and checks every digest on the way."""

    def __init__(
        self,
        manifest: Manifest,
        fetch: Fetch,
        *,
        where: str,
        threads: int = 4,
        progress: Progress | None = None,
        files: Filesystem | None = None,
    ) -> None:
        """`where` names the version in errors; `threads` is how many small files are fetched at a time."""
        self._manifest = manifest
        self._fetch = fetch
        self._where = where
        self._threads = threads
        self._progress = progress
        self._files = files or Filesystem()
        self._done = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def into(self, target: Path) -> None:
        """Fill the directory `target`; see `tfs_deploy.store.protocol.Store.download`."""
        if not target.is_dir():
            raise NotFound(f"The directory {str(target)!r} to download into does not exist.", "Create it first.")
        paths = [entry.path for entry in self._manifest.files]
        folders = {parent for path in [*paths, MANIFEST_PATH] for parent in Path(path).parents} - {Path()}
        with reporting("clear", target, who=_WHO):
            self._clear(target, {target / path for path in paths}, {target / folder for folder in folders})
        for folder in sorted(folders):  # sorted: a parent comes before what is in it
            if not (target / folder).is_dir():
                with reporting("create", target / folder, who=_WHO):
                    self._files.make_folder(target / folder)
        self._bring_all(target)
        path = target / MANIFEST_PATH
        # The manifest says that the rest is complete: the rest is on the disk before it.
        for folder in sorted({Path(), *folders}):
            self._flush_folder(target / folder)
        with reporting("write", path, who=_WHO):
            write_new_file(self._files, path, to_json(self._manifest))
        self._flush_folder(path.parent)

    def _clear(self, folder: Path, wanted: set[Path], folders: set[Path]) -> None:
        """Remove what is not part of the version, and the manifest, which would call the directory complete."""
        with os.scandir(folder) as found:
            entries = list(found)
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if path in folders:
                    self._clear(path, wanted, folders)
                else:
                    remove_tree(self._files, path)
            elif path not in wanted or not entry.is_file(follow_symlinks=False):
                self._files.remove_file(path)

    def _bring_all(self, target: Path) -> None:
        # Large files first and few at a time, since several of their pieces are on the way at once.
        entries = sorted(self._manifest.files, key=lambda entry: -entry.size)
        large = [entry for entry in entries if entry.size >= LARGE_FILE_BYTES]
        self._bring(large, target, min(self._threads, _LARGE_THREADS))
        self._bring(entries[len(large) :], target, self._threads)

    def _bring(self, entries: list[FileEntry], target: Path, threads: int) -> None:
        if not entries:
            return
        with ThreadPoolExecutor(min(threads, len(entries)), thread_name_prefix="tfs-deploy-download") as pool:
            try:
                for _ in pool.map(lambda entry: self._bring_one(entry, target / entry.path), entries):
                    pass
            except BaseException:
                self._stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _bring_one(self, entry: FileEntry, path: Path) -> None:
        if self._stopped.is_set():
            return
        if self._is_there(entry, path):
            self._advance(entry.size)
            return
        problem = self._write(entry, path, count=True)
        if problem and not self._stopped.is_set():
            log.info("Fetching %s of %s again: it came with %s", entry.path, self._where, problem)
            problem = self._write(entry, path, count=False)
        if problem and not self._stopped.is_set():
            raise CorruptModel(
                f"The file {entry.path!r} of {self._where} has {problem} instead of {entry.size} bytes with "
                f"{entry.sha256[:12]}....",
                "Withdraw that version and publish the model again.",
            )

    def _is_there(self, entry: FileEntry, path: Path) -> bool:
        try:
            if path.stat().st_size == entry.size and _digest_of(path) == entry.sha256:
                with reporting("flush", path, who=_WHO), path.open("rb") as stream:
                    self._files.sync(stream.fileno())  # whoever wrote it may have died before it was on the disk
                return True
        except FileNotFoundError:
            return False
        except OSError as error:
            log.info("Fetching %s again, which cannot be read: %s", path, error)
        with reporting("remove", path, who=_WHO):
            self._files.remove_file(path)
        return False

    def _write(self, entry: FileEntry, path: Path, *, count: bool) -> str:
        """Write what comes for `entry`, and return what is wrong with it; a file that is wrong does not stay."""
        digest, size = hashlib.sha256(), 0
        with reporting("create", path, who=_WHO):
            descriptor = self._files.create(path)
        try:
            for block in self._fetch(entry):
                if self._stopped.is_set() or size > entry.size:
                    break
                digest.update(block)
                size += len(block)
                with reporting("write", path, who=_WHO):
                    self._files.write(descriptor, block)
                if count:
                    self._advance(min(len(block), max(0, entry.size - size + len(block))))
            with reporting("flush", path, who=_WHO):
                self._files.sync(descriptor)
        except BaseException:
            self._drop(path)
            raise
        finally:
            os.close(descriptor)
        if (size, digest.hexdigest()) == (entry.size, entry.sha256):
            return ""
        self._drop(path)
        if count:
            self._advance(max(0, entry.size - size))
        return f"{size} bytes with SHA-256 {digest.hexdigest()[:12]}..."

    def _drop(self, path: Path) -> None:
        try:
            self._files.remove_file(path)
        except OSError as error:
            log.warning("Left %s behind, the next download removes it: %s", path, error)

    def _flush_folder(self, folder: Path) -> None:
        with reporting("flush", folder, who=_WHO):
            self._files.sync_folder(folder)

    def _advance(self, count: int) -> None:
        if self._progress is not None and count:
            with self._lock:
                self._done += count
                self._progress(self._done)


def _digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    view = memoryview(bytearray(_BUFFER_BYTES))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(view):
            digest.update(view[:count])
    return digest.hexdigest()
