"""Fetch the files of a version: small ones whole, pieces of large ones as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tfs_deploy.errors import CorruptModel
from tfs_deploy.savedmodel.manifest import FileEntry
from tfs_deploy.store.download.state import NoPieces
from tfs_deploy.store.object_store.errors import Interrupted, MissingObject
from tfs_deploy.store.object_store.layout import folder
from tfs_deploy.store.object_store.objects import Objects
from tfs_deploy.store.object_store.transfer import PART_BYTES, Buffer, Transfer

# Requests for small objects wait for the server; more threads than this wait for each other.
THREADS = 16
# Pieces of large objects fill the line; a server gives each of them a part of what it has.
PIECES = 24


class Fetcher:
    """Yields the bytes of files."""

    threads = THREADS
    pieces = PIECES

    def __init__(self, objects: Objects, transfer: Transfer) -> None:
        self._objects = objects
        self._transfer = transfer
        self._gives_ranges = True

    def files(self, model: str, version: int) -> VersionFiles:
        """Return the files of a version as a download takes them."""
        return VersionFiles(self, model, version)

    def require(self, name: str, entry: FileEntry) -> None:
        """Raise MissingObject unless the object is there in its full size."""
        head = self._objects.head(name)
        if head is None or head.size != entry.size:
            raise MissingObject(name)

    def blocks(self, name: str, size: int, start: int, end: int) -> Iterator[Buffer]:
        """Yield the bytes of an object of `size` bytes between two places, whatever they are."""
        if size <= PART_BYTES:
            whole = self._objects.repeating(lambda: self._transfer.get(name, size=size))
            yield whole if (start, end) == (0, size) else memoryview(whole)[start:end]
            return
        if self._gives_ranges:
            try:
                yield from self._range(name, start, end)
                return
            except NoPieces:
                # Before the first block, so nothing was yielded yet.
                self._gives_ranges = False
        if (start, end) != (0, size):
            raise NoPieces(name)
        yield from self._transfer.stream(name)

    def _range(self, name: str, start: int, end: int) -> Iterator[Buffer]:
        """Yield a piece; where an answer breaks off, the next request asks for the rest, as long as any of it comes."""
        at, before = start, -1
        while at > before:
            before = at
            try:
                for attempt in self._objects.retrying():
                    with attempt:
                        for block in self._transfer.range(name, at, end):
                            at += len(block)
                            yield block
            except Interrupted:
                if at == before:
                    raise
            else:
                return


@dataclass(frozen=True, slots=True)
class VersionFiles:
    """The files of one version."""

    fetcher: Fetcher
    model: str
    version: int

    def begin(self, entry: FileEntry) -> None:
        """See `tfs_deploy.store.download.state.Source`."""
        try:
            self.fetcher.require(self._name(entry), entry)
        except MissingObject:
            raise self._missing(entry) from None

    def blocks(self, entry: FileEntry, start: int, end: int) -> Iterator[Buffer]:
        """See `tfs_deploy.store.download.state.Source`."""
        try:
            yield from self.fetcher.blocks(self._name(entry), entry.size, start, end)
        except MissingObject:
            raise self._missing(entry) from None

    def whole(self, entry: FileEntry) -> Iterator[Buffer]:
        """Yield the bytes of a file in order; CorruptModel if its object is missing."""
        return self.blocks(entry, 0, entry.size)

    def _name(self, entry: FileEntry) -> str:
        return folder(self.model, self.version) + entry.path

    def _missing(self, entry: FileEntry) -> CorruptModel:
        return CorruptModel(
            f"The file {entry.path!r} of version {self.version} of model {self.model!r} is missing, or has another "
            "size than it was published with.",
            "Withdraw that version and publish the model again.",
        )
