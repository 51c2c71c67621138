"""Every change that a store makes to a disk, one method each, at which tests inject faults; and the locks on it.

Folders and files get at least the modes 0755 and 0644 whatever the umask says, because the model server that reads
them often runs as another user.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock

from tfs_deploy.clock import Clock, Deadline
from tfs_deploy.errors import Contention, Permanent, StoreError, TFSDeployError, Unreachable

_FOLDER_MODE = 0o755
_FILE_MODE = 0o644
_REMEDIES = {
    errno.ENOSPC: "Free some space on that disk and run the same step again; nothing half-written is visible.",
    errno.EDQUOT: "Free some of the user's disk quota and run the same step again.",
    errno.EROFS: "The disk is mounted read-only: mount it writable, or use another store.",
    errno.EACCES: "Give the user that runs this the right to write there, or use another store.",
    errno.EPERM: "Give the user that runs this the right to write there, or use another store.",
    errno.EXDEV: "A model's directory must lie on one file system: do not mount another one below it.",
    errno.ENOTDIR: "Something on that path is a file: move it away, or use another store.",
    errno.EISDIR: "A directory is where a file should be: move it away.",
    errno.ENOSYS: "That mount has no file locks (flock): mount it with them, or use another store.",
    errno.ENOLCK: "That mount has no file locks (flock): mount it with them, or use another store.",
    errno.ENAMETOOLONG: "Use a shorter store path or model name.",
}
# Errors of network file systems whose server does not answer.
_AWAY = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN})


@contextlib.contextmanager
def reporting(doing: str, path: Path, *, who: str = "The store") -> Iterator[None]:
    """Turn an OSError in the block into our errors: "<who> could not <doing> <path>: <reason>."."""
    try:
        yield
    except OSError as error:
        raise store_error(doing, path, error, who=who) from error


def store_error(doing: str, path: Path, error: OSError, *, who: str = "The store") -> TFSDeployError:
    """Return the error of our tree for an OSError of a disk; Unreachable if the disk does not answer."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    cause = f"{who} could not {doing} {str(path)!r}: {reason}."
    if error.errno in _AWAY:
        return Unreachable(cause, "Check the disk or the file server, then run the same step again.")
    kind: type[Permanent] = StoreError
    return kind(cause, _REMEDIES.get(error.errno or 0, "Check the store's path, its rights and its disk."))


class Filesystem:
    """The operating system's files. All methods raise OSError."""

    def make_folder(self, path: Path) -> None:
        """Create the last segment of `path`; FileExistsError if it is there."""
        path.mkdir()
        path.chmod(path.stat().st_mode & 0o7777 | _FOLDER_MODE)

    def make_folders(self, path: Path, root: Path) -> None:
        """Create what is missing of `path` below and including `root`, whose parent must exist."""
        if path.is_dir():
            return
        if path != root:
            self.make_folders(path.parent, root)
        try:
            self.make_folder(path)
        except FileExistsError:
            if not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
        else:
            self.sync_folder(path.parent)

    def create(self, path: Path) -> int:
        """Create the file `path`, which must not exist, and return its descriptor."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            os.fchmod(descriptor, os.fstat(descriptor).st_mode & 0o7777 | _FILE_MODE)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        """Write all of `data`."""
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at a place of the file."""
        left = memoryview(data)
        while left:
            count = os.pwrite(descriptor, left, offset)
            left, offset = left[count:], offset + count

    def sync(self, descriptor: int) -> None:
        """Wait until the file's bytes are on the disk."""
        os.fsync(descriptor)

    def sync_folder(self, path: Path) -> None:
        """Wait until the folder's names are on the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Some network file systems have no fsync for folders; their renames are the server's business.
            if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                raise
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a folder to a name that must be free, or replace a file, in one step."""
        os.rename(source, target)

    def remove_file(self, path: Path) -> None:
        """Remove the file `path`."""
        os.unlink(path)

    def remove_folder(self, path: Path) -> None:
        """Remove the empty folder `path`."""
        os.rmdir(path)


def write_new_file(files: Filesystem, path: Path, data: bytes) -> None:
    """Create the file `path` with `data`, on the disk when this returns."""
    descriptor = files.create(path)
    try:
        files.write(descriptor, data)
        files.sync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(files: Filesystem, path: Path) -> None:
    """Remove the folder `path`, if it is there, and all below it; others may be removing it at the same time.

    Of a link only the link goes, wherever it leads; a file of that name goes, too.
    """
    if not os.path.lexists(path):
        return
    remove_below(files, path)
    with contextlib.suppress(FileNotFoundError):
        if path.is_symlink() or not path.is_dir():
            files.remove_file(path)
        else:
            files.remove_folder(path)


def remove_below(files: Filesystem, path: Path) -> None:
    """Remove all below the folder `path`, nothing behind a link; others may be removing it at the same time."""
    if path.is_symlink():
        return
    for folder, names, file_names in os.walk(path, topdown=False):
        for name in file_names:
            with contextlib.suppress(FileNotFoundError):
                files.remove_file(Path(folder, name))
        for name in names:
            below = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):
                files.remove_file(below) if below.is_symlink() else files.remove_folder(below)


_FIRST_WAIT = 0.002
_LONGEST_WAIT = 0.1


class Locks:
    """Named locks. Each is an empty file below `folder` that stays, since a new file would be another lock."""

    def __init__(self, folder: Path, *, root: Path, files: Filesystem, clock: Clock) -> None:
        self._folder = folder
        self._root = root
        self._files = files
        self._clock = clock

    @contextlib.contextmanager
    def hold(self, name: str, *, seconds: float) -> Iterator[None]:
        """Hold the lock `name`; raise Contention if another holds it for `seconds` more."""
        deadline = Deadline.after(seconds, self._clock)
        wait = _FIRST_WAIT
        while (lock := self._try(name)) is None:
            if deadline.passed():
                raise Contention(
                    f"The lock {str(self._path(name))!r} was held by another process for {seconds:g} s.",
                    "Wait until that publish or change is done, then run the same step again.",
                )
            self._clock.sleep(min(wait, deadline.remaining() or _FIRST_WAIT))
            wait = min(wait * 2, _LONGEST_WAIT)
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def hold_if_free(self, name: str) -> Iterator[bool]:
        """Hold the lock `name` if it is free; yield whether it is held."""
        lock = self._try(name)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    def _try(self, name: str) -> BaseFileLock | None:
        path = self._path(name)
        with reporting("lock", path):
            self._files.make_folders(path.parent, self._root)
            # A new object each time: one object counts a second thread of this process as the same holder.
            lock: BaseFileLock = FileLock(path, thread_local=False)
            try:
                lock.acquire(blocking=False)
                free = True
            except TimeoutError:  # filelock.Timeout, which is an OSError as well
                free = False
            except RuntimeError:  # raised by filelock before 4 where there is no flock
                raise _no_locks(path) from None
            if isinstance(lock, SoftFileLock):
                # filelock's substitute where there is no flock outlives its process.
                lock.release()
                raise _no_locks(path)
        return lock if free else None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"


def _no_locks(path: Path) -> OSError:
    return OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(path))
