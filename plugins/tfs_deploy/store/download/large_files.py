"""Download of large files into a directory, a few at a time, each in pieces that arrive in any order.

A piece is written block by block as it arrives, so it needs no buffer of its size. The file is hashed in its own order
behind the pieces, from the page cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfs_deploy.savedmodel.manifest import FileEntry
from tfs_deploy.store.download.state import WHO, DownloadState, NoPieces, Source, problem_with
from tfs_deploy.store.local.filesystem import reporting

PIECE_BYTES = 32 << 20
_FILES_AT_ONCE = 2
# Flushed in steps of this size, so that the disk works during the download and not only at its end.
_FLUSH_BYTES = 256 << 20
# Fits a core's cache, and is long enough for hashlib to release the interpreter lock.
_HASH_BYTES = 256 << 10


class LargeFiles:
    """Downloads files that do not fit the memory."""

    def __init__(
        self, source: Source, state: DownloadState, *, connections: int, piece_bytes: int = PIECE_BYTES
    ) -> None:
        """`connections` is how many pieces of all files are fetched at a time."""
        self._source = source
        self._state = state
        self._connections = connections
        self._piece_bytes = piece_bytes

    def download(self, entries: list[FileEntry], target: Path) -> None:
        """Download `entries` below `target`; the first error stops the rest."""
        if not entries:
            return
        at_once = min(_FILES_AT_ONCE, len(entries))
        connections = max(1, self._connections // at_once)
        with ThreadPoolExecutor(at_once, thread_name_prefix="tfs-deploy-download") as pool:
            # A file that stops because of another file's error raises nothing itself.
            for _ in pool.map(lambda entry: self._download_file(entry, target / entry.path, connections), entries):
                pass

    def _download_file(self, entry: FileEntry, path: Path, connections: int) -> None:
        stopped = self._state.stopped
        if stopped.is_set():
            return
        try:
            if self._state.is_complete(entry, path):
                self._state.advance(entry.size)
                return
            self._source.begin(entry)
            problem = self._try(entry, path, connections, self._state.advance)
            if problem and not stopped.is_set():
                self._state.log_retry(entry, problem)
                problem = self._try(entry, path, connections, lambda count: None)
            if problem and not stopped.is_set():
                raise self._state.corrupt(entry, problem)
        except BaseException:
            stopped.set()
            raise

    def _try(self, entry: FileEntry, path: Path, connections: int, advance: Callable[[int], None]) -> str:
        """Fetch a file and return its problem, empty if there is none; a file with a problem is removed."""
        problem = "nothing"
        try:
            try:
                file = _File(entry, path, self._source, self._state, advance, piece_bytes=self._piece_bytes)
                size, digest = file.download(connections)
            except NoPieces:
                self._state.drop(path)
                file = _File(entry, path, self._source, self._state, advance, piece_bytes=entry.size)
                size, digest = file.download(1)
            problem = problem_with(entry, size, digest)
        finally:
            if problem and os.path.lexists(path):
                self._state.drop(path)
        return problem


class _File:
    """One attempt to download one file."""

    def __init__(
        self,
        entry: FileEntry,
        path: Path,
        source: Source,
        state: DownloadState,
        advance: Callable[[int], None],
        *,
        piece_bytes: int,
    ) -> None:
        self._entry = entry
        self._path = path
        self._source = source
        self._state = state
        self._advance = advance
        self._piece_bytes = piece_bytes
        self._broken = threading.Event()
        self._error: BaseException | None = None

    def download(self, connections: int) -> tuple[int, str]:
        """Return size and SHA-256 (hex) of the downloaded bytes, which are flushed; the values are wrong if stopped."""
        digest, size, flushed = hashlib.sha256(), 0, 0
        with self._opened() as (writing, reading):
            for received in self._pieces(writing, connections):
                size += self._hash(digest, reading, size, received)
                if size - flushed >= _FLUSH_BYTES and not self._stopping:
                    self._flush(writing)
                    flushed = size
            if not self._stopping:
                self._flush(writing)
        if self._error is not None:
            raise self._error
        return size, digest.hexdigest()

    @property
    def _stopping(self) -> bool:
        return self._broken.is_set() or self._state.stopped.is_set()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[int, int]]:
        with contextlib.ExitStack() as stack:
            with reporting("create", self._path, who=WHO):
                writing = self._state.files.create(self._path)
                stack.callback(os.close, writing)
                reading = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, reading)
            yield writing, reading

    def _pieces(self, writing: int, connections: int) -> Iterator[int]:
        """Yield, in the order of the file, the received bytes of each piece; several pieces are fetched at once."""
        starts = range(0, self._entry.size, self._piece_bytes)
        with ThreadPoolExecutor(connections, thread_name_prefix="tfs-deploy-pieces") as pool:
            futures = [pool.submit(self._fetch, writing, start) for start in starts]
            try:
                for future in futures:
                    received = future.result()
                    if not self._stopping:
                        yield received
                    if received < self._piece_bytes:
                        break  # the last one, or the file is too short
            finally:
                for future in futures:
                    future.cancel()

    def _fetch(self, writing: int, start: int) -> int:
        """Fetch and write one piece; return the number of its received bytes."""
        at, end = start, min(start + self._piece_bytes, self._entry.size)
        if self._stopping:
            return 0
        try:
            for block in self._source.blocks(self._entry, start, end):
                # Bytes beyond the piece belong to the next one.
                taken = memoryview(block)[: end - at]
                if not taken:
                    continue
                with reporting("write", self._path, who=WHO):
                    self._state.files.write_at(writing, taken, at)
                at += len(taken)
                self._advance(len(taken))
                if self._stopping:
                    break
        except BaseException as error:
            self._error = self._error or error
            self._broken.set()
        return at - start

    def _hash(self, digest: hashlib._Hash, reading: int, start: int, count: int) -> int:
        view = memoryview(bytearray(min(_HASH_BYTES, count)))
        done = 0
        while done < count and not self._stopping:
            with reporting("read", self._path, who=WHO):
                got = os.preadv(reading, [view[: count - done]], start + done)
            if not got:
                break
            digest.update(view[:got])
            done += got
        return done

    def _flush(self, writing: int) -> None:
        with reporting("flush", self._path, who=WHO):
            self._state.files.sync(writing)
