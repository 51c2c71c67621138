"""The contents of a model's directory, cached in a file, so that a publish does not list thousands of versions.

An entry is valid while the directory has the modification time that was noted with it; otherwise the directory and the
claims are listed again. A lost or torn entry costs that listing only. The modification time has steps of some
milliseconds, so a directory made by hand in the same step as our own change may be missed; the exclusive claim and the
check before the rename still prevent that a number is used twice.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from tfs_deploy.errors import CorruptModel
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.names import served_number
from tfs_deploy.store.local.filesystem import Filesystem, reporting
from tfs_deploy.store.local.numbering import Numbers, names_in, withdrawn_number

log = logging.getLogger(__name__)

# Starts with a dot: it is neither a claim nor a document.
_NAME = ".overview"


@dataclass(frozen=True, slots=True)
class CachedDirectory:
    """The highest number ever used, the versions without a claim, and the names that a sweep checks.

    ``inode`` and ``changed_ns`` are those of the directory after our last change; ``token`` is new with every change.
    """

    highest: int = 0
    foreign: tuple[int, ...] = ()
    loose: tuple[str, ...] = ()
    inode: int = 0
    changed_ns: int = 0
    token: str = ""


class DirectoryCache:
    """Reads, rebuilds and writes the entry of each model; a writer holds the lock of the model's names."""

    def __init__(self, folder: Path, *, root: Path, files: Filesystem, numbers: Numbers) -> None:
        """`folder` holds the claims, and the entry of a model in the same folder."""
        self._folder = folder
        self._root = root
        self._files = files
        self._numbers = numbers

    def read(self, model: str) -> CachedDirectory | None:
        """Return the entry, valid or not."""
        path = self._folder / model / _NAME
        with reporting("read", path):
            try:
                return from_json(CachedDirectory, path.read_bytes())
            except (FileNotFoundError, NotADirectoryError, CorruptModel):
                return None

    def valid(self, model: str, base: Path) -> CachedDirectory | None:
        """Return the entry if the directory has not changed since it was written."""
        entry = self.read(model)
        return entry if entry is not None and _stamp(base) == (entry.inode, entry.changed_ns) else None

    def listed(self, model: str, base: Path) -> CachedDirectory:
        """Return the contents of `base`, from a valid entry or else from a listing."""
        return self.valid(model, base) or self._list(model, base)

    @contextlib.contextmanager
    def changing(self, model: str, base: Path) -> Iterator[Changes]:
        """Let the block change names in `base` and write the new entry; the caller holds the lock of the names."""
        changes = Changes(self.listed(model, base))
        yield changes
        self._note(model, base, changes.directory)

    def _list(self, model: str, base: Path) -> CachedDirectory:
        names = names_in(base)
        claimed = self._numbers.claimed(model)
        numbers = [(name, served_number(name)) for name in names]
        withdrawn = [withdrawn_number(name) for name, number in numbers if number is None]
        used = [*claimed, *withdrawn, *(number for _, number in numbers)]
        own_form = {number for name, number in numbers if number and number > 0 and name == str(number)}
        return CachedDirectory(
            highest=max((number for number in used if number is not None), default=0),
            foreign=tuple(sorted(own_form - claimed)),
            loose=tuple(sorted(name for name in names if name.startswith("."))),
        )

    def _note(self, model: str, base: Path, directory: CachedDirectory) -> None:
        inode, changed_ns = _stamp(base)
        entry = replace(directory, inode=inode, changed_ns=changed_ns, token=uuid4().hex[:16])
        path = self._folder / model / _NAME
        try:
            self._files.make_folders(path.parent, self._root)
            self._write(path, to_json(entry))
        except OSError as error:
            # The change itself is done. The old entry must go, so that its token changes and the next publish lists.
            log.warning("Could not cache the contents of %s: %s", base, error)
            with contextlib.suppress(OSError):
                self._files.remove_file(path)

    def _write(self, path: Path, data: bytes) -> None:
        partial = path.with_name(f"{_NAME}.new")
        with contextlib.suppress(FileNotFoundError):
            self._files.remove_file(partial)  # left by a process that died
        descriptor = self._files.create(partial)
        try:
            self._files.write(descriptor, data)  # not flushed: after a power cut the directory is listed again
        finally:
            os.close(descriptor)
        self._files.rename(partial, path)


class Changes:
    """The entry while names change."""

    def __init__(self, directory: CachedDirectory) -> None:
        self.directory = directory

    def used(self, number: int) -> None:
        """Record that `number` has a claim now."""
        foreign = tuple(other for other in self.directory.foreign if other != number)
        self.directory = replace(self.directory, highest=max(self.directory.highest, number), foreign=foreign)

    def added(self, name: str) -> None:
        """Record a name that a sweep checks."""
        self.directory = replace(self.directory, loose=tuple(sorted({*self.directory.loose, name})))

    def removed(self, name: str) -> None:
        """Record that such a name is gone."""
        self.directory = replace(self.directory, loose=tuple(other for other in self.directory.loose if other != name))


def _stamp(base: Path) -> tuple[int, int]:
    with reporting("read", base):
        try:
            status = base.stat()
        except FileNotFoundError:
            return 0, 0
    return status.st_ino, status.st_mtime_ns
