"""Read a staged directory for a publish, each file once: the hashed bytes are the stored bytes."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfs_deploy.errors import CorruptModel, InvalidInput
from tfs_deploy.jsonable import to_json
from tfs_deploy.names import check_above, check_model_name
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.manifest import MAX_MANIFEST_BYTES, FileEntry, Manifest
from tfs_deploy.serving.signature import signatures_of_saved_model
from tfs_deploy.store.protocol import ModelVersion, Progress

# hashlib releases the interpreter lock for blocks this large, and they still fit a core's cache.
_BLOCK_BYTES = 1 << 20
# Small files wait for the disk rather than for a core.
_THREADS = 4
_REMEDY = "Export the model again; do not change files between export and publish."


class StagedFiles:
    """Reads the files of a manifest from a directory, in threads, and compares each with its entry."""

    def __init__(self, source: Path, manifest: Manifest, progress: Progress | None) -> None:
        self._source = source
        self.manifest = manifest
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def check(self) -> None:
        """Read every file; raise CorruptModel naming one that is wrong."""
        self.for_each(self._check)

    def for_each(
        self, work: Callable[[FileEntry], None], entries: Iterable[FileEntry] | None = None, *, threads: int = _THREADS
    ) -> None:
        """Call `work` with each of `entries` (default: all files) in threads; the first error stops the rest."""
        # Large files first: a large file that starts last would run alone.
        ordered = sorted(self.manifest.files if entries is None else entries, key=lambda entry: -entry.size)
        if not ordered:
            return
        with ThreadPoolExecutor(min(threads, len(ordered)), thread_name_prefix="tfs-deploy-publish") as pool:
            try:
                for _ in pool.map(work, ordered):
                    pass
            except BaseException:
                self._stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def content(self, entry: FileEntry) -> bytes:
        """Return the bytes of a small file; raise CorruptModel if they are not those of `entry`."""
        path = self._source / entry.path
        with reading_input(path), path.open("rb") as stream:
            data = stream.read(entry.size + 1)
        self._compare(entry, len(data), hashlib.sha256(data).hexdigest())
        return data

    def blocks(self, entry: FileEntry, *, size: int = _BLOCK_BYTES, keep: bool = False) -> Iterator[memoryview]:
        """Yield the file's bytes; raise CorruptModel at the end if they are not those of `entry`.

        A block is overwritten by the next one, unless `keep`.
        """
        path = self._source / entry.path
        digest, total = hashlib.sha256(), 0
        view = memoryview(bytearray(min(size, entry.size + 1)))
        with contextlib.ExitStack() as stack:
            with reading_input(path):
                # Buffered: a short read of the file system must not end a part, since all parts have one size.
                stream = stack.enter_context(path.open("rb"))
            while not self._stopped.is_set():
                with reading_input(path):
                    count = stream.readinto(view)
                if not count:
                    break
                digest.update(view[:count])
                total += count
                yield view[:count]
                if keep:
                    view = memoryview(bytearray(len(view)))
        if not self._stopped.is_set():
            self._compare(entry, total, digest.hexdigest())

    @property
    def stopped(self) -> bool:
        """Tell whether another file has failed, which makes further work useless."""
        return self._stopped.is_set()

    def advance(self, count: int) -> None:
        """Add `count` bytes to the progress."""
        if self._progress is not None:
            with self._lock:
                self._done += count
                self._progress(self._done)

    def _compare(self, entry: FileEntry, size: int, digest: str) -> None:
        if (size, digest) != (entry.size, entry.sha256):
            raise CorruptModel(
                f"The file {entry.path!r} in {str(self._source)!r} has {size} bytes with SHA-256 "
                f"{digest[:12]}... instead of {entry.size} bytes with {entry.sha256[:12]}....",
                _REMEDY,
            )

    def _check(self, entry: FileEntry) -> None:
        for block in self.blocks(entry):
            self.advance(len(block))


@contextlib.contextmanager
def reading_input(path: Path) -> Iterator[None]:
    """Turn an OSError while reading the input into InvalidInput; the store's own disk raises StoreError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidInput(
            f"The file {str(path)!r} cannot be read: {reason}.", "Check that it exists and is readable."
        ) from error


def check_input(directory: Path, manifest: Manifest, model: str, above: int) -> None:
    """Raise InvalidInput, NotFound or CorruptModel for arguments of a publish that cannot be right; reads no file."""
    check_model_name(model)
    check_above(above)
    with reading_input(directory):
        manifests.verify(directory, manifest, deep=False)
    _check_size(manifest)


def corrupt_existing(existing: ModelVersion, error: CorruptModel) -> CorruptModel:
    """Return the error for an earlier version with the published bytes that is damaged now."""
    return CorruptModel(
        f"Version {existing.version} of model {existing.model!r} was published with these bytes, but: {error.cause}",
        "Withdraw that version, then publish again.",
    )


def _check_size(manifest: Manifest) -> None:
    """Raise InvalidInput for a manifest that is too large to be read again."""
    size = len(to_json(manifest))
    if size > MAX_MANIFEST_BYTES:
        raise InvalidInput(
            f"The manifest would have {size} bytes, more than {MAX_MANIFEST_BYTES}: it lists {len(manifest.files)} "
            "files.",
            "Export the model with fewer files, or with less provenance.",
        )


def check_signatures(directory: Path, manifest: Manifest) -> None:
    """Raise CorruptModel unless the signatures in `manifest` are those of the SavedModel in `directory`."""
    if signatures_of_saved_model(directory) != manifest.signatures:
        raise CorruptModel(
            "The signatures in the manifest are not those of its saved_model.pb.", "Export the model again."
        )
