"""State documents as files below a folder: changed under a lock, replaced by a rename."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tfs_deploy.errors import Contention, InvalidInput, StoreError
from tfs_deploy.store.document_format import OVERHEAD_BYTES, decode, encode
from tfs_deploy.store.documents import check_folder, check_key, check_prefix
from tfs_deploy.store.local.filesystem import Filesystem, Locks, reporting, store_error, write_new_file
from tfs_deploy.store.protocol import MAX_DOCUMENT_BYTES, Document

_LOCK = "documents"
_PARTIAL = ".document.partial"


class LocalStateDocuments:
    """One file per document. Readers need no lock: a file is replaced by a rename, so it is always whole."""

    def __init__(
        self, folder: Path, *, root: Path, locks: Locks, files: Filesystem, lock_seconds: float = 30.0
    ) -> None:
        self._folder = folder
        self._root = root
        self._locks = locks
        self._files = files
        self._lock_seconds = lock_seconds

    def read(self, key: str) -> Document | None:
        path = self._path(key)
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_DOCUMENT_BYTES + OVERHEAD_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise store_error("read", path, error) from error
        if len(data) > MAX_DOCUMENT_BYTES + OVERHEAD_BYTES:
            raise StoreError(
                f"The state document {str(path)!r} is larger than {MAX_DOCUMENT_BYTES} bytes.",
                "It was not written by tfs_deploy: move it away.",
            )
        return decode(data)

    def write(self, key: str, body: bytes, *, expected: str | None) -> str:
        path = self._path(key)
        if len(body) > MAX_DOCUMENT_BYTES:
            raise InvalidInput(
                f"The state document {key!r} would have {len(body)} bytes.", f"Keep it below {MAX_DOCUMENT_BYTES}."
            )
        with self._locks.hold(_LOCK, seconds=self._lock_seconds):
            self._compare(key, expected)
            data, tag = encode(body)
            self._replace(path, data)
        return tag

    def list(self, prefix: str) -> tuple[str, ...]:
        start = self._folder / check_prefix(prefix).rpartition("/")[0]
        keys = (key for key in self._keys_below(start) if key.startswith(prefix))
        return tuple(sorted(keys))

    def folders(self, prefix: str) -> tuple[str, ...]:
        start = self._folder / check_folder(prefix)
        with reporting("list", start):
            try:
                with os.scandir(start) as entries:
                    names = [entry.name for entry in entries if entry.is_dir()]
            except (FileNotFoundError, NotADirectoryError):
                return ()
        return tuple(sorted(name for name in names if not name.startswith(".")))

    def delete(self, key: str) -> None:
        path = self._path(key)
        if not path.is_file():
            return
        with self._locks.hold(_LOCK, seconds=self._lock_seconds), reporting("delete", path):
            with contextlib.suppress(FileNotFoundError):
                self._files.remove_file(path)
                self._files.sync_folder(path.parent)
            self._remove_empty_folders(path.parent)

    def _path(self, key: str) -> Path:
        return self._folder / check_key(key)

    def _compare(self, key: str, expected: str | None) -> None:
        current = self.read(key)
        tag = None if current is None else current.tag
        if tag == expected:
            return
        if expected is None:
            cause = f"The state document {key!r} exists already."
        else:
            cause = (
                f"The state document {key!r} was {'changed' if current else 'removed'} by another process meanwhile."
            )
        raise Contention(cause, "Run the same step again: it reads the document again.")

    def _replace(self, path: Path, data: bytes) -> None:
        # Only the holder of the lock writes this file, so an existing one is the leftover of a dead process.
        partial = self._folder / _PARTIAL
        with reporting("write", path):
            self._files.make_folders(path.parent, self._root)
            if path.is_dir():
                raise InvalidInput(f"The key of {str(path)!r} is a folder of other keys.", "Use another key.")
            with contextlib.suppress(FileNotFoundError):
                self._files.remove_file(partial)
            write_new_file(self._files, partial, data)
            self._files.rename(partial, path)
            self._files.sync_folder(path.parent)

    def _keys_below(self, start: Path) -> Iterator[str]:
        def stop(error: OSError) -> None:
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                raise error

        with reporting("list", start):
            for folder, names, file_names in os.walk(start, onerror=stop):
                names[:] = [name for name in names if not name.startswith(".")]
                below = Path(folder).relative_to(self._folder)
                yield from ((below / name).as_posix() for name in file_names if not name.startswith("."))

    def _remove_empty_folders(self, folder: Path) -> None:
        """Remove `folder` and its parents while they are empty, so that their names are free as keys again."""
        with contextlib.suppress(OSError):
            while folder != self._folder:
                self._files.remove_folder(folder)
                folder = folder.parent
