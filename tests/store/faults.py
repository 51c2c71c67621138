"""A file system that counts its steps, and dies or fails at a chosen one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from tfs_deploy.store.local.filesystem import Filesystem


class FaultyFilesystem(Filesystem):
    """Calls `fault` at step number `at`, counted from 1: before the step, after it, or halfway for a write."""

    def __init__(self, at: int = 0, fault: Callable[[], None] | None = None, *, after: bool = False) -> None:
        self.steps = 0
        self.log: list[str] = []
        self._at = at
        self._fault = fault
        self._after = after
        self._lock = threading.Lock()

    def _step(self, name: str, do: Callable[[], None], half: Callable[[], None] | None = None) -> None:
        with self._lock:
            self.steps += 1
            self.log.append(name)
            hit = self.steps == self._at and self._fault is not None
        if hit and not self._after:
            if half is not None:
                half()
            self._fault()
        try:
            do()
        finally:
            if hit and self._after:
                self._fault()

    def make_folder(self, path: Path) -> None:
        self._step(f"make_folder {path}", lambda: super(FaultyFilesystem, self).make_folder(path))

    def create(self, path: Path) -> int:
        descriptors: list[int] = []
        self._step(f"create {path}", lambda: descriptors.append(super(FaultyFilesystem, self).create(path)))
        return descriptors[0]

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        plain = super().write
        self._step(
            "write", lambda: plain(descriptor, data), half=lambda: plain(descriptor, memoryview(data)[: len(data) // 2])
        )

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        plain = super().write_at
        self._step(
            f"write_at {offset}",
            lambda: plain(descriptor, data, offset),
            half=lambda: plain(descriptor, memoryview(data)[: len(data) // 2], offset),
        )

    def sync(self, descriptor: int) -> None:
        self._step("sync", lambda: super(FaultyFilesystem, self).sync(descriptor))

    def sync_folder(self, path: Path) -> None:
        self._step(f"sync_folder {path}", lambda: super(FaultyFilesystem, self).sync_folder(path))

    def rename(self, source: Path, target: Path) -> None:
        self._step(f"rename {source} {target}", lambda: super(FaultyFilesystem, self).rename(source, target))

    def remove_file(self, path: Path) -> None:
        self._step(f"remove_file {path}", lambda: super(FaultyFilesystem, self).remove_file(path))

    def remove_folder(self, path: Path) -> None:
        self._step(f"remove_folder {path}", lambda: super(FaultyFilesystem, self).remove_folder(path))


def failing(number: int) -> Callable[[], None]:
    """Return a fault that raises the OSError with this errno."""

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


def die() -> None:
    """End this process as a power cut would: no cleanup, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(
    work: Callable[[], None],
    *,
    seconds: float = 60.0,
    during_fork: contextlib.AbstractContextManager[None] | None = None,
) -> int:
    """Run `work` in a forked process and return its exit code, negative for a signal."""
    child = multiprocessing.get_context("fork").Process(target=work)
    with during_fork or contextlib.nullcontext():
        child.start()
    child.join(seconds)
    assert child.exitcode is not None, "the child hangs"
    return child.exitcode
