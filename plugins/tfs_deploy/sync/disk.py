"""The disk that a model server reads: its contents, and every change that an agent makes to it.

The server sees ``<root>/<model>/<version>/``. Beside the versions lie, under names that are not numbers:
``.incoming-<version>`` (the stage of a download, inside the model's folder, which may be a mount of its own) and
``.removing-<version>-<random>`` (a version that is being removed). ``<root>/.tfs_deploy_sync/`` holds the lock. Version
``0`` is the placeholder, see `tfs_deploy.store.local.placeholder`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from tfs_deploy.clock import Clock
from tfs_deploy.errors import InvalidInput, Refused, StoreError
from tfs_deploy.names import MAX_VERSION, PLACEHOLDER, is_model_name, served_number
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH
from tfs_deploy.savedmodel.placeholder import is_placeholder
from tfs_deploy.store.local import placeholder
from tfs_deploy.store.local.filesystem import Filesystem, Locks, remove_tree, reporting
from tfs_deploy.store.local.layout import STATE_FOLDER
from tfs_deploy.sync.plan import VersionName

OWN_FOLDER = ".tfs_deploy_sync"
_WHO = "The sync agent"
_STAGE = re.compile(r"\.incoming-([1-9][0-9]{0,18})", re.ASCII)
_REMOVING = re.compile(r"\.removing-[0-9]+-[0-9a-f]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class DiskContents:
    """The contents of the disk; `ours` maps a version to the identity of its folder.

    `placeholders` are in no other field.
    """

    folders: frozenset[str] = frozenset()
    placeholders: frozenset[VersionName] = frozenset()
    shown: frozenset[VersionName] = frozenset()
    ours: dict[VersionName, tuple[int, int]] = field(default_factory=dict)
    staged: frozenset[VersionName] = frozenset()
    leftovers: tuple[Path, ...] = ()


def free_bytes(path: Path) -> int:
    """Return how many bytes an ordinary user may still write on the file system of `path`."""
    return shutil.disk_usage(path).free


class ReplicaDisk:
    """One model root. Raises StoreError, or Unreachable for a disk that seems to be away."""

    def __init__(
        self, root: Path, *, files: Filesystem | None = None, free: Callable[[Path], int] = free_bytes
    ) -> None:
        self.root = Path(os.path.abspath(root))
        self.files = files or Filesystem()
        self._free = free

    def require_apart_from(self, store_directory: Path | None) -> None:
        """Raise Refused if the model root and the directory of a store lie within each other."""
        if store_directory is None:
            return
        root, store = Path(os.path.realpath(self.root)), Path(os.path.realpath(store_directory))
        if root == store or root in store.parents or store in root.parents:
            raise Refused(
                f"The model root {str(self.root)!r} and the store {str(store_directory)!r} lie within each other.",
                "A model server that can read the store needs no agent; else give the agent a directory of its own.",
            )

    def prepare(self) -> None:
        """Create the model root if only its last segment is missing; refuse one that is a store itself."""
        if not self.root.parent.is_dir():
            raise InvalidInput(
                f"Neither the model root {str(self.root)!r} nor the directory that would hold it exists.",
                "Check the path for a typing error, or create that directory first.",
            )
        if (self.root / STATE_FOLDER).exists():
            raise Refused(
                f"The model root {str(self.root)!r} is a store of published versions.",
                "Name the directory that the model server reads; it needs no agent if it reads the store itself.",
            )
        with reporting("create", self.root, who=_WHO):
            self.files.make_folders(self.root, self.root)

    @contextlib.contextmanager
    def locked(self, clock: Clock) -> Iterator[None]:
        """Hold the lock on the model root within the block; raise Refused if another agent holds it."""
        locks = Locks(self.root / OWN_FOLDER, root=self.root, files=self.files, clock=clock)
        with locks.hold_if_free("agent") as held:
            if not held:
                raise Refused(
                    f"Another sync agent works on the model root {str(self.root)!r}.",
                    "Run one agent per model root; for an init container, end it before the long-running one starts.",
                )
            yield

    def scan(self) -> DiskContents:
        """Return the contents now; costs local calls only, in proportion to the versions on this disk."""
        folders, placeholders, shown, staged = set(), set(), set(), set()
        ours: dict[VersionName, tuple[int, int]] = {}
        leftovers: list[Path] = []
        with reporting("list", self.root, who=_WHO):
            for model in sorted(name for name in os.listdir(self.root) if is_model_name(name)):
                base = self.root / model
                if not base.is_dir():
                    continue
                folders.add(model)
                for name in _names_in(base):
                    number = served_number(name)
                    if name == str(PLACEHOLDER) and is_placeholder(base / name):
                        placeholders.add(VersionName(model, PLACEHOLDER))
                    elif number is not None:
                        shown.add(VersionName(model, number))
                        identity = self._identity(base / name) if name == str(number) and number > 0 else None
                        if identity is not None:
                            ours[VersionName(model, number)] = identity
                    elif (match := _STAGE.fullmatch(name)) and int(match.group(1)) <= MAX_VERSION:
                        staged.add(VersionName(model, int(match.group(1))))
                    elif _REMOVING.fullmatch(name) or placeholder.is_leftover(name):
                        leftovers.append(base / name)
        return DiskContents(
            frozenset(folders), frozenset(placeholders), frozenset(shown), ours, frozenset(staged), tuple(leftovers)
        )

    def directory(self, name: VersionName) -> Path:
        """Return the directory in which the model server sees a version."""
        return self.root / name.model / str(name.version)

    def make_folder(self, model: str) -> None:
        """Create the folder of a model, which keeps discovery alive even while it is empty (contract 3.3)."""
        with reporting("create", self.root / model, who=_WHO):
            self.files.make_folders(self.root / model, self.root)

    def open_stage(self, name: VersionName, *, size: int) -> Path:
        """Return the stage of a version of `size` bytes; raise StoreError if the disk has too little space."""
        self.make_folder(name.model)
        stage = self._stage(name)
        with reporting("create", stage, who=_WHO):
            if stage.is_symlink() or not stage.is_dir():
                remove_tree(self.files, stage)  # a file or a link under our name
                self.files.make_folder(stage)
            missing = size - _size_of(stage)
            free = self._free(stage)
        if missing > free:
            raise StoreError(
                f"Version {name.version} of model {name.model!r} needs {missing} more bytes on the disk of "
                f"{str(self.root)!r}, and {free} are free.",
                "Free some space there; the agent tries again by itself.",
            ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return stage

    def show(self, name: VersionName) -> None:
        """Make a complete stage visible under its number by one rename; raise Refused if the name is taken."""
        target = self.directory(name)
        with reporting("rename the finished version to", target, who=_WHO):
            if os.path.lexists(target):
                raise Refused(f"{str(target)!r} has appeared meanwhile.", "Check who else writes there.")
            self.files.rename(self._stage(name), target)
            self.files.sync_folder(target.parent)

    def remove(self, name: VersionName) -> None:
        """Take a version out of sight by one rename, then remove its files."""
        source = self.directory(name)
        away = source.with_name(f".removing-{name.version}-{uuid4().hex[:8]}")
        with reporting("rename", source, who=_WHO):
            self.files.rename(source, away)
            self.files.sync_folder(source.parent)
        self.clear(away)

    def put_placeholder(self, model: str) -> None:
        """Show the placeholder of a model; raise Refused if something else has its number."""
        self.make_folder(model)
        with reporting("put the placeholder below", self.root / model, who=_WHO):
            placeholder.put(self.files, self.root / model)

    def discard(self, name: VersionName) -> None:
        """Remove the stage of a version."""
        self.clear(self._stage(name))

    def clear(self, path: Path) -> None:
        """Remove a leftover."""
        with reporting("remove", path, who=_WHO):
            remove_tree(self.files, path)

    def _stage(self, name: VersionName) -> Path:
        return self.root / name.model / f".incoming-{name.version}"

    def _identity(self, directory: Path) -> tuple[int, int] | None:
        """Return inode and modification time of a version directory, None without a manifest of tfs_deploy."""
        try:
            if directory.is_symlink() or not (directory / MANIFEST_PATH).is_file():
                return None
            status = directory.stat()
        except (FileNotFoundError, PermissionError):
            return None
        return status.st_ino, status.st_mtime_ns


def _names_in(folder: Path) -> list[str]:
    """Return the names in a model's folder; none if it is not readable or was just removed."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, PermissionError):
        return []


def _size_of(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total
