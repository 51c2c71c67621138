"""Locks of a store on a file system: held by a living process, gone with it, safe among threads and processes."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock

from tfs_deploy.clock import Clock, Deadline
from tfs_deploy.errors import Contention
from tfs_deploy.store.local.filesystem import Filesystem, reporting

_FIRST_WAIT = 0.002
_LONGEST_WAIT = 0.1


class Locks:
    """Named locks; each is an empty file below `folder` that stays, since removing it would split those who wait."""

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
        """Hold the lock `name` if nobody does; yield whether it is held now."""
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
            # A new object each time: one object would count a second thread of this process as the same holder.
            lock: BaseFileLock = FileLock(path, thread_local=False)
            try:
                lock.acquire(blocking=False)
                free = True
            except TimeoutError:  # filelock.Timeout, which is an OSError as well
                free = False
            except RuntimeError:  # what filelock before 4 says where there is no flock
                raise _no_locks(path) from None
            if isinstance(lock, SoftFileLock):
                # What filelock makes do with where there is no flock outlives its process.
                lock.release()
                raise _no_locks(path)
        return lock if free else None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"


def _no_locks(path: Path) -> OSError:
    return OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(path))
