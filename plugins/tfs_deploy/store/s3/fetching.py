"""Fetch the files of a version: small ones whole, large ones in pieces that are on the way together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from tfs_deploy.errors import CorruptModel
from tfs_deploy.savedmodel.manifest import FileEntry
from tfs_deploy.store.s3.errors import MissingObject, NoRanges
from tfs_deploy.store.s3.layout import folder
from tfs_deploy.store.s3.objects import Objects
from tfs_deploy.store.s3.transfer import PART_BYTES, PIECES_AT_ONCE, Buffer, Transfer

# Small objects wait for the server; more threads than this wait for each other.
SMALL_THREADS = 16


class Fetcher:
    """Yields the bytes of files in order."""

    threads = SMALL_THREADS

    def __init__(self, objects: Objects, transfer: Transfer) -> None:
        self._objects = objects
        self._transfer = transfer
        self._gives_ranges = True

    def blocks(self, model: str, version: int, entry: FileEntry) -> Iterator[Buffer]:
        """Yield the bytes of a file, whatever they are; CorruptModel if its object is missing."""
        name = folder(model, version) + entry.path
        try:
            if entry.size <= PART_BYTES:
                yield self._objects.repeating(lambda: self._transfer.get(name, size=entry.size))
            else:
                yield from self._large(name, entry.size)
        except MissingObject:
            raise CorruptModel(
                f"The file {entry.path!r} of version {version} of model {model!r} is missing or too short.",
                "Withdraw that version and publish the model again.",
            ) from None

    def _large(self, name: str, size: int) -> Iterator[Buffer]:
        if self._gives_ranges:
            try:
                yield from self._pieces(name, size)
                return
            except NoRanges:
                # Of the first piece, so nothing was yielded yet.
                self._gives_ranges = False
        yield from self._transfer.stream(name)

    def _pieces(self, name: str, size: int) -> Iterator[Buffer]:
        def fetch(start: int) -> Buffer:
            end = min(start + PART_BYTES, size)
            return self._objects.repeating(lambda: self._transfer.get_range(name, start, end))

        waiting: deque[Future[Buffer]] = deque()
        pool = ThreadPoolExecutor(PIECES_AT_ONCE, thread_name_prefix="tfs-deploy-pieces")
        try:
            for start in range(0, size, PART_BYTES):
                waiting.append(pool.submit(fetch, start))
                if len(waiting) >= PIECES_AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
