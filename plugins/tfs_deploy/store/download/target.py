"""Download of a version into a directory, the side that is the same for every store.

Large files are split into pieces (`large_files`). Small files are fetched in many threads, because a fetch waits for
the source; written in one, because the system creates the names in a folder one at a time; and flushed in some, because
a disk combines flushes that are pending at the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tfs_deploy.errors import CorruptModel, NotFound, TFSDeployError
from tfs_deploy.jsonable import to_json
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, FileEntry, Manifest
from tfs_deploy.store.download.large_files import PIECE_BYTES, LargeFiles
from tfs_deploy.store.download.state import WHO, Block, DownloadState, Source, problem_with
from tfs_deploy.store.local.filesystem import Filesystem, remove_tree, reporting, write_new_file
from tfs_deploy.store.protocol import Progress

_FLUSH_THREADS = 8
# Descriptors that are open at the most; and files in memory beyond those that a thread is fetching.
_FLUSHES_AHEAD = 64
_FILES_AHEAD = 8


class SmallFiles:
    """Downloads files that fit the memory."""

    def __init__(self, source: Source, state: DownloadState, *, threads: int) -> None:
        self._source = source
        self._state = state
        self._threads = threads
        self._fetched: deque[tuple[FileEntry, Path, Future[list[Block] | None]]] = deque()
        self._flushed: deque[Future[None]] = deque()

    def download(self, entries: list[FileEntry], target: Path) -> None:
        """Download `entries` below `target`; the first error stops the rest."""
        if not entries:
            return
        with (
            ThreadPoolExecutor(_FLUSH_THREADS, thread_name_prefix="tfs-deploy-flush") as flushers,
            ThreadPoolExecutor(self._threads, thread_name_prefix="tfs-deploy-download") as fetchers,
        ):
            try:
                for entry in entries:
                    path = target / entry.path
                    self._fetched.append((entry, path, fetchers.submit(self._fetch_unless_there, entry, path)))
                    if len(self._fetched) >= self._threads + _FILES_AHEAD:
                        self._write_next(flushers)
                while self._fetched:
                    self._write_next(flushers)
                while self._flushed:
                    self._flushed.popleft().result()
            except CorruptModel:
                self._finish_pending(flushers)
                self._state.stopped.set()
                raise
            except BaseException:
                self._state.stopped.set()
                raise

    def _finish_pending(self, flushers: ThreadPoolExecutor) -> None:
        """Write the files that were being fetched when one was damaged; the next attempt keeps them."""
        while self._fetched:
            with contextlib.suppress(TFSDeployError):
                self._write_next(flushers)
        while self._flushed:
            with contextlib.suppress(TFSDeployError):
                self._flushed.popleft().result()

    def _write_next(self, flushers: ThreadPoolExecutor) -> None:
        entry, path, future = self._fetched.popleft()
        blocks = future.result()
        if blocks is not None:
            if problem := _problem(entry, blocks):
                self._state.log_retry(entry, problem)
                blocks = self._fetch(entry)
                if problem := _problem(entry, blocks):
                    raise self._state.corrupt(entry, problem)
            self._flushed.append(flushers.submit(self._flush, self._write(path, blocks), path))
        self._state.advance(entry.size)
        if len(self._flushed) >= _FLUSHES_AHEAD:
            self._flushed.popleft().result()

    def _fetch_unless_there(self, entry: FileEntry, path: Path) -> list[Block] | None:
        if self._state.stopped.is_set() or self._state.is_complete(entry, path):
            return None
        return self._fetch(entry)

    def _fetch(self, entry: FileEntry) -> list[Block]:
        blocks: list[Block] = []
        size = 0
        for block in self._source.blocks(entry, 0, entry.size):
            blocks.append(block)
            size += len(block)
            if size > entry.size:
                break
        return blocks

    def _write(self, path: Path, blocks: list[Block]) -> int:
        """Write a file and return its open descriptor."""
        files = self._state.files
        with reporting("create", path, who=WHO):
            descriptor = files.create(path)
        try:
            with reporting("write", path, who=WHO):
                for block in blocks:
                    files.write(descriptor, block)
        except BaseException:
            os.close(descriptor)
            self._state.drop(path)
            raise
        return descriptor

    def _flush(self, descriptor: int, path: Path) -> None:
        try:
            if not self._state.stopped.is_set():
                with reporting("flush", path, who=WHO):
                    self._state.files.sync(descriptor)
        except BaseException:
            self._state.drop(path)
            raise
        finally:
            os.close(descriptor)


def _problem(entry: FileEntry, blocks: list[Block]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return problem_with(entry, sum(len(block) for block in blocks), digest.hexdigest())


# Files above this size are few and fill the line or the disk; smaller ones wait for answers, and fit the memory.
LARGE_FILE_BYTES = 8 << 20


class DownloadTarget:
    """Writes the files of `manifest` from `source` into a directory and checks every digest."""

    def __init__(
        self,
        manifest: Manifest,
        source: Source,
        *,
        where: str,
        threads: int = 4,
        pieces: int = 4,
        progress: Progress | None = None,
        files: Filesystem | None = None,
        large_bytes: int = LARGE_FILE_BYTES,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        """`where` names the version in errors.

        `threads` is how many small files are fetched at a time, `pieces` how many pieces of large ones.
        """
        self._manifest = manifest
        self._files = files or Filesystem()
        self._state = DownloadState(where, progress, self._files)
        self._small = SmallFiles(source, self._state, threads=threads)
        self._large = LargeFiles(source, self._state, connections=pieces, piece_bytes=piece_bytes)
        self._large_bytes = large_bytes

    def fill(self, target: Path) -> None:
        """Fill the directory `target`; see `tfs_deploy.store.protocol.Store.download`."""
        if not target.is_dir():
            raise NotFound(f"The directory {str(target)!r} to download into does not exist.", "Create it first.")
        paths = [entry.path for entry in self._manifest.files]
        folders = {parent for path in [*paths, MANIFEST_PATH] for parent in Path(path).parents} - {Path()}
        with reporting("clear", target, who=WHO):
            self._clear(target, {target / path for path in paths}, {target / folder for folder in folders})
        for folder in sorted(folders):  # sorted: a parent comes before its contents
            if not (target / folder).is_dir():
                with reporting("create", target / folder, who=WHO):
                    self._files.make_folder(target / folder)
        # Large files first: a large file that starts last would run alone.
        entries = sorted(self._manifest.files, key=lambda entry: -entry.size)
        self._large.download([entry for entry in entries if entry.size > self._large_bytes], target)
        self._small.download([entry for entry in entries if entry.size <= self._large_bytes], target)
        path = target / MANIFEST_PATH
        # The manifest marks the directory as complete, so everything else is flushed before it is written.
        for folder in sorted({Path(), *folders}):
            self._flush_folder(target / folder)
        with reporting("write", path, who=WHO):
            write_new_file(self._files, path, to_json(self._manifest))
        self._flush_folder(path.parent)

    def _clear(self, folder: Path, wanted: set[Path], folders: set[Path]) -> None:
        """Remove everything that is not part of the version, and the manifest, which marks a complete directory."""
        with os.scandir(folder) as scan:
            entries = list(scan)
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if path in folders:
                    self._clear(path, wanted, folders)
                else:
                    remove_tree(self._files, path)
            elif path not in wanted or not entry.is_file(follow_symlinks=False):
                self._files.remove_file(path)
            else:
                self._state.present.add(path)

    def _flush_folder(self, folder: Path) -> None:
        with reporting("flush", folder, who=WHO):
            self._files.sync_folder(folder)
