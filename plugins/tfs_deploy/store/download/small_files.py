"""Bring many small files into a directory: fetched in many threads, written in one, flushed in some.

Fetching waits for the other side. Names in one folder are made one at a time whoever makes them, so more threads would
only wait for each other there. Flushes wait for the disk, which does many in one go.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tfs_deploy.errors import CorruptModel, TFSDeployError
from tfs_deploy.savedmodel.manifest import FileEntry
from tfs_deploy.store.download.state import WHO, Block, DownloadState, Source, problem_with
from tfs_deploy.store.local.filesystem import reporting

_FLUSH_THREADS = 8
# Descriptors that are open at the most; and files in memory beyond those that a thread is fetching.
_FLUSHES_AHEAD = 64
_FILES_AHEAD = 8


class SmallFiles:
    """Brings files that fit the memory."""

    def __init__(self, source: Source, state: DownloadState, *, threads: int) -> None:
        self._source = source
        self._state = state
        self._threads = threads
        self._fetched: deque[tuple[FileEntry, Path, Future[list[Block] | None]]] = deque()
        self._flushed: deque[Future[None]] = deque()

    def download(self, entries: list[FileEntry], target: Path) -> None:
        """Bring `entries` below `target`; the first error ends all of it."""
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
                        self._take_one(flushers)
                while self._fetched:
                    self._take_one(flushers)
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
        """Write what is on its way beside a damaged file: the next try need not fetch it again."""
        while self._fetched:
            with contextlib.suppress(TFSDeployError):
                self._take_one(flushers)
        while self._flushed:
            with contextlib.suppress(TFSDeployError):
                self._flushed.popleft().result()

    def _take_one(self, flushers: ThreadPoolExecutor) -> None:
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
