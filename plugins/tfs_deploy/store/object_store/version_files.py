"""Download and upload of the files of one version.

An upload leaves out what the bucket holds already, and goes in the order assets.extra, assets, variables,
``saved_model.pb``: the file that makes a directory a SavedModel comes after the files that it needs. The manifest
comes after all of them, in `publishing`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tfs_deploy.errors import CorruptModel, InvalidInput
from tfs_deploy.savedmodel.manifest import FileEntry
from tfs_deploy.store.download.state import NoPieces
from tfs_deploy.store.object_store.address import DIGEST_METADATA, folder
from tfs_deploy.store.object_store.errors import Interrupted, MissingObject
from tfs_deploy.store.object_store.objects import Objects
from tfs_deploy.store.object_store.transfer import PART_BYTES, Buffer, Transfer, part_bytes_for
from tfs_deploy.store.staged import StagedFiles

# Requests for small objects wait for the server; more threads than this slow each other down.
THREADS = 16
# Ranges of large objects that are read at a time, since servers limit the speed of one.
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
        """Yield the bytes `start` to before `end` of an object of `size` bytes, unverified."""
        if size <= PART_BYTES:
            whole = self._objects.repeating(lambda: self._transfer.get(name, size=size))
            yield whole if (start, end) == (0, size) else memoryview(whole)[start:end]
            return
        if self._gives_ranges:
            try:
                yield from self._range(name, start, end)
                return
            except NoPieces:
                # Raised before the first block, so nothing was yielded yet.
                self._gives_ranges = False
        if (start, end) != (0, size):
            raise NoPieces(name)
        yield from self._transfer.stream(name)

    def _range(self, name: str, start: int, end: int) -> Iterator[Buffer]:
        """Yield a range; after an answer that was cut off request the rest, as long as each answer makes progress."""
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


# Small files wait for the server; of each large file several parts are sent at a time.
_SMALL_THREADS = 16
_LARGE_THREADS = 4
_ORDER = ("assets.extra/", "assets/", "variables/")
# An S3 key has at most 1,024 bytes (Amazon S3 user guide, "Naming Amazon S3 objects").
_MAX_KEY_BYTES = 1024


class Sender:
    """Sends the staged files of one version."""

    def __init__(
        self, staged: StagedFiles, objects: Objects, transfer: Transfer, *, model: str, beat: Callable[[], None]
    ) -> None:
        """`beat` is called regularly, by any thread; an error that it raises stops the upload."""
        self._staged = staged
        self._objects = objects
        self._transfer = transfer
        self._model = model
        self._beat = beat
        self._sent = 0
        self._lock = threading.Lock()

    def check_names(self) -> None:
        """Raise InvalidInput for a file whose object's name would be too long."""
        for entry in self._staged.manifest.files:
            key = self._objects.address.key(folder(self._model, 2**63) + entry.path)
            if len(key.encode()) > _MAX_KEY_BYTES:
                raise InvalidInput(
                    f"The name of the file {entry.path[:80]!r}... is too long for an object in S3.", "Shorten it."
                )

    def send(self, version: int, *, resumed: bool) -> int:
        """Send every file and return the number of sent bytes; `resumed`: keep objects that are right already."""
        there = self._complete_paths(version) if resumed else set()
        groups: dict[int, list[FileEntry]] = {}
        for entry in self._staged.manifest.files:
            groups.setdefault(_rank(entry.path), []).append(entry)
        for rank in sorted(groups):
            self._send_group(version, groups[rank], there)
        return self._sent

    def _send_group(self, version: int, entries: list[FileEntry], there: set[str]) -> None:
        kept = [entry for entry in entries if entry.path in there]
        large = [entry for entry in entries if entry.size > PART_BYTES and entry.path not in there]
        small = [entry for entry in entries if entry.size <= PART_BYTES and entry.path not in there]
        # Kept files are read as well, so that a file that has changed since the manifest is refused.
        self._staged.for_each(self._read, kept)
        self._staged.for_each(lambda entry: self._send_large(version, entry), large, threads=_LARGE_THREADS)
        self._staged.for_each(lambda entry: self._send_small(version, entry), small, threads=_SMALL_THREADS)

    def _complete_paths(self, version: int) -> set[str]:
        """Return the paths whose objects have the right size and digest; delete objects of other paths."""
        start = folder(self._model, version)
        present = {listed.name[len(start) :]: listed.size for listed in self._objects.list(start)}
        wanted = {entry.path: entry for entry in self._staged.manifest.files}
        self._objects.delete_all(start + path for path in present if path not in wanted)
        right: set[str] = set()

        def compare(entry: FileEntry) -> None:
            head = self._objects.head(start + entry.path)
            if head and head.size == entry.size and head.metadata.get(DIGEST_METADATA) == entry.sha256:
                right.add(entry.path)
            self._beat()

        candidates = [wanted[path] for path, size in present.items() if path in wanted and wanted[path].size == size]
        self._staged.for_each(compare, candidates, threads=_SMALL_THREADS)
        return right

    def _read(self, entry: FileEntry) -> None:
        for block in self._staged.blocks(entry):
            self._staged.advance(len(block))
            self._beat()

    def _send_small(self, version: int, entry: FileEntry) -> None:
        if self._staged.stopped:
            return
        body = self._staged.content(entry)
        self._transfer.put(folder(self._model, version) + entry.path, body, sha256=entry.sha256)
        self._done(entry, len(body))

    def _send_large(self, version: int, entry: FileEntry) -> None:
        part_bytes = part_bytes_for(entry.size)

        def parts() -> Iterator[memoryview]:
            for part in self._staged.blocks(entry, size=part_bytes, keep=True):
                yield part
                self._staged.advance(len(part))
                self._beat()
            if self._staged.stopped:
                raise _AnotherFailed

        try:
            self._transfer.put_parts(
                folder(self._model, version) + entry.path, parts(), sha256=entry.sha256, part_bytes=part_bytes
            )
        except _AnotherFailed:
            return
        with self._lock:
            self._sent += entry.size

    def _done(self, entry: FileEntry, count: int) -> None:
        with self._lock:
            self._sent += count
        if count:
            self._staged.advance(count)
        self._beat()


class _AnotherFailed(Exception):
    """Stops an upload after the failure of another file."""


def _rank(path: str) -> int:
    if path == "saved_model.pb":
        return len(_ORDER) + 1
    return next((rank for rank, start in enumerate(_ORDER) if path.startswith(start)), len(_ORDER))
