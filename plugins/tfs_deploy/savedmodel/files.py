"""The files of a SavedModel directory: their list, their digests, and atomic writes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from tfs_deploy.errors import InvalidInput, NotFound, StoreError

# Large enough that hashlib releases the interpreter lock for long stretches, small enough to stay in the cache.
_BUFFER_BYTES = 1 << 20
_NAME_REMEDY = "Rename or remove it: a published file must have the same name on every store."


def check_relative_path(path: str) -> str:
    """Return `path` if it is a plain posix path below a directory; raise InvalidInput otherwise."""
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise InvalidInput(f"The path {path!r} does not stay below its directory.", _NAME_REMEDY)
    for character in path:
        # Cc: control characters; Cs: bytes that are not UTF-8, as Python's file system calls return them.
        if character == "\\" or unicodedata.category(character) in {"Cc", "Cs"}:
            raise InvalidInput(f"The file name {path!r} holds the character {character!r}.", _NAME_REMEDY)
    return path


def is_directory(path: Path) -> bool:
    """Tell whether `path` is a directory; unlike `Path.is_dir` this raises nothing for a name that is too long."""
    return os.path.isdir(path)


def list_files(directory: Path) -> list[str]:
    """Return the sorted posix paths of all files below `directory`.

    A link to a file inside the directory counts as that file. Links that leave it, links to directories (they
    could loop) and anything that is neither file nor directory are InvalidInput.
    """
    if not is_directory(directory):
        raise NotFound(f"{str(directory)!r} is not a directory.", "Name an existing SavedModel directory.")
    return sorted(_walk(directory, Path(os.path.realpath(directory)), ""))


def hash_files(directory: Path, paths: list[str]) -> list[tuple[str, int, str]]:
    """Return (path, size in bytes, SHA-256 in hex) for each of `paths`, in their order; each file is read once."""
    if not paths:
        return []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1, len(paths))) as pool:
        digests = pool.map(lambda path: _hash(directory / path), paths)
        return [(path, *digest) for path, digest in zip(paths, digests, strict=True)]


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all, with the folders that it needs, and flush it to the disk."""
    partial = path.with_name(f".{path.name}.partial-{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise StoreError(
            f"{str(path)!r} cannot be written: {error.strerror or error}.", "Check rights and space."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _walk(directory: Path, root: Path, prefix: str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            path = check_relative_path(prefix + entry.name)
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), root, path + "/")
            else:
                # A plain file needs no resolving, which costs more than the listing.
                if not entry.is_file(follow_symlinks=False):
                    _check_file(Path(entry.path), root, path)
                yield path


def _check_file(file: Path, root: Path, path: str) -> None:
    try:
        target = file.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise InvalidInput(f"The link {path!r} has no target.", "Remove it, or put a file in its place.") from error
    if not target.is_relative_to(root):
        raise InvalidInput(
            f"The link {path!r} leads out of the directory, to {str(target)!r}.", "Put the file itself in its place."
        )
    if not stat.S_ISREG(target.stat().st_mode):
        raise InvalidInput(f"{path!r} is not a plain file.", "Remove it: a SavedModel holds plain files only.")


def _hash(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    view = memoryview(bytearray(_BUFFER_BYTES))
    try:
        with path.open("rb", buffering=0) as stream:
            while count := stream.readinto(view):
                digest.update(view[:count])
                size += count
    except OSError as error:
        raise InvalidInput(
            f"The file {str(path)!r} cannot be read: {error.strerror or error}.",
            "Check that it exists and is readable.",
        ) from error
    return size, digest.hexdigest()
