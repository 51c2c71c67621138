"""An output directory that appears complete or not at all, also if the process that fills it is killed."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from tfs_deploy.errors import Refused, StoreError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def partial_directory(out: Path) -> Iterator[Path]:
    """Yield a new sibling of `out` to fill; it is removed at the end unless `commit` renamed it.

    This process locks the sibling while it lives. Siblings of the same `out` without a lock were left by processes that
    died, and are removed first.
    """
    descriptor: int | None = None
    partial = out.with_name(f".{out.name}.partial-{uuid4().hex}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        partial.mkdir()
        descriptor = _lock(partial)
    except OSError as error:
        raise StoreError(
            f"{str(out.parent)!r} cannot be written: {error.strerror or error}.", "Check rights and space."
        ) from error
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def commit(partial: Path, out: Path) -> None:
    """Flush all files in `partial` to disk and rename it to `out`; raise Refused if `out` exists already."""
    try:
        for folder, _, files in os.walk(partial):
            for name in files:
                _flush(Path(folder, name))
            _flush(Path(folder))
        # rename(2) replaces an empty directory only.
        partial.rename(out)
        _flush(out.parent)
    except OSError as error:
        if out.exists() and partial.exists():
            raise Refused(f"{str(out)!r} appeared meanwhile.", "Name another output directory.") from error
        raise StoreError(
            f"{str(out)!r} cannot be written: {error.strerror or error}.", "Check rights and space."
        ) from error


def _remove_leftovers(out: Path) -> None:
    prefix = f".{out.name}.partial-"
    for leftover in [entry for entry in out.parent.iterdir() if entry.name.startswith(prefix) and entry.is_dir()]:
        descriptor = _lock(leftover)
        if descriptor is not None:
            logger.info("Removing %s, left by an export that was killed", leftover)
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(descriptor)


def _lock(directory: Path) -> int | None:
    """Lock `directory` until the descriptor is closed; return None if another process holds it or it does not exist."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
