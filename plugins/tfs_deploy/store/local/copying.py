"""Copy a staged directory into a store, each file read once: what is hashed is what is written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfs_deploy.errors import CorruptModel, InvalidInput
from tfs_deploy.savedmodel.manifest import FileEntry, Manifest
from tfs_deploy.store.local.filesystem import Filesystem, reporting
from tfs_deploy.store.protocol import Progress

# hashlib releases the interpreter lock for blocks this large, and they still fit a core's cache.
_BUFFER_BYTES = 1 << 20
# Small files wait for the disk rather than for a core.
_THREADS = 4
_REMEDY = "Export the model again; do not change files between export and publish."


class VerifiedReader:
    """Reads the files of a manifest from a directory, in threads, and compares each with its entry."""

    def __init__(self, source: Path, manifest: Manifest, progress: Progress | None) -> None:
        self._source = source
        self._manifest = manifest
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def check(self) -> None:
        """Read every file; raise CorruptModel naming one that is wrong."""
        self._for_each(self._check)

    def copy(self, target: Path, files: Filesystem) -> None:
        """Write every file below the empty folder `target`, on the disk when this returns."""
        folders = sorted({parent for entry in self._manifest.files for parent in Path(entry.path).parents})
        for folder in folders:  # sorted: a parent comes before what is in it, and `.` is target itself
            if folder != Path():
                with reporting("create", target / folder):
                    files.make_folder(target / folder)
        self._for_each(lambda entry: self._copy(entry, target / entry.path, files))
        for folder in folders:
            with reporting("flush", target / folder):
                files.sync_folder(target / folder)

    def _for_each(self, work: Callable[[FileEntry], None]) -> None:
        # Large files first, so that no thread starts on one when the others are done.
        entries = sorted(self._manifest.files, key=lambda entry: -entry.size)
        with ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="tfs-deploy-copy") as pool:
            try:
                for _ in pool.map(work, entries):
                    pass
            except BaseException:
                self._stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _check(self, entry: FileEntry) -> None:
        for block in self._blocks(entry):
            self._advance(len(block))

    def _copy(self, entry: FileEntry, target: Path, files: Filesystem) -> None:
        with reporting("create", target):
            descriptor = files.create(target)
        try:
            for block in self._blocks(entry):
                with reporting("write", target):
                    files.write(descriptor, block)
                self._advance(len(block))
            with reporting("flush", target):
                files.sync(descriptor)
        finally:
            os.close(descriptor)

    def _blocks(self, entry: FileEntry) -> Iterator[memoryview]:
        """Yield the file's bytes; raise CorruptModel at the end if they are not those of `entry`."""
        path = self._source / entry.path
        digest, size = hashlib.sha256(), 0
        view = memoryview(bytearray(min(_BUFFER_BYTES, entry.size + 1)))
        with contextlib.ExitStack() as stack:
            with reading_input(path):
                stream = stack.enter_context(path.open("rb", buffering=0))
            while not self._stopped.is_set():
                with reading_input(path):
                    count = stream.readinto(view)
                if not count:
                    break
                digest.update(view[:count])
                size += count
                yield view[:count]
        if not self._stopped.is_set() and (size, digest.hexdigest()) != (entry.size, entry.sha256):
            raise CorruptModel(
                f"The file {entry.path!r} in {str(self._source)!r} has {size} bytes with SHA-256 "
                f"{digest.hexdigest()[:12]}... instead of {entry.size} bytes with {entry.sha256[:12]}....",
                _REMEDY,
            )

    def _advance(self, count: int) -> None:
        if self._progress is not None:
            with self._lock:
                self._done += count
                self._progress(self._done)


@contextlib.contextmanager
def reading_input(path: Path) -> Iterator[None]:
    """Tell apart the input, which the caller named, from the store's own disk."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidInput(
            f"The file {str(path)!r} cannot be read: {reason}.", "Check that it exists and is readable."
        ) from error
