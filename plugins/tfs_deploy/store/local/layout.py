"""The paths of a store on a file system.

A model server watches ``<root>/<model>/<version>/``. Everything else has names that it ignores: documents, claims and
locks are in ``<root>/.tfs_deploy/``, and beside the versions are, under names that are not numbers:

- ``.partial-<fingerprint>``: a publish that runs or died; while it runs, the lock of that fingerprint is held
- ``<version>.withdrawn``: a withdrawn version
- ``.deleting-<version>-<random>``: a version whose removal has begun
- ``0`` and ``.placeholder-<random>``: see `tfs_deploy.store.local.placeholder`
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from tfs_deploy.clock import Clock
from tfs_deploy.savedmodel.manifest import hex_of
from tfs_deploy.store.local.directory_cache import DirectoryCache
from tfs_deploy.store.local.documents import LocalStateDocuments
from tfs_deploy.store.local.filesystem import Filesystem, Locks
from tfs_deploy.store.local.numbering import Numbers

STATE_FOLDER = ".tfs_deploy"
# A change of names takes milliseconds; a longer wait means that another process hangs.
NAMES_LOCK_SECONDS = 30.0
_PARTIAL = ".partial-"
_PARTIAL_NAME = re.compile(r"\.partial-([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class LocalLayout:
    """The paths of one store, and the tools that work on them."""

    root: Path
    files: Filesystem
    locks: Locks
    numbers: Numbers
    directory_cache: DirectoryCache
    documents: LocalStateDocuments
    clock: Clock

    @classmethod
    def at(cls, root: Path, *, files: Filesystem, clock: Clock) -> LocalLayout:
        """Return the layout of the store in the directory `root`; nothing is created."""
        state = root / STATE_FOLDER
        locks = Locks(state / ".locks", root=root, files=files, clock=clock)
        numbers = Numbers(state / "claims", root=root, files=files)
        return cls(
            root=root,
            files=files,
            locks=locks,
            numbers=numbers,
            directory_cache=DirectoryCache(state / "claims", root=root, files=files, numbers=numbers),
            documents=LocalStateDocuments(state, root=root, locks=locks, files=files),
            clock=clock,
        )

    def base(self, model: str) -> Path:
        """Return the directory that a model server watches for `model`."""
        return self.root / model

    def directory(self, model: str, version: int) -> Path:
        """Return the directory of one version."""
        return self.root / model / str(version)

    def partial(self, model: str, fingerprint: str) -> Path:
        """Return the directory that collects the files of `fingerprint` before they become a version."""
        return self.base(model) / f"{_PARTIAL}{hex_of(fingerprint)}"

    def names_lock(self, model: str) -> contextlib.AbstractContextManager[None]:
        """Hold the lock that every change of names in the model's directory needs."""
        return self.locks.hold(f"models/{model}", seconds=NAMES_LOCK_SECONDS)


def partial_hex(name: str) -> str | None:
    """Return the fingerprint's hex digits if `name` is that of a partial directory."""
    match = _PARTIAL_NAME.fullmatch(name)
    return match.group(1) if match else None


def publish_lock(model: str, fingerprint_hex: str) -> str:
    """Return the name of the lock that a publish of these bytes holds from beginning to end."""
    return f"publish/{model}/{fingerprint_hex}"
