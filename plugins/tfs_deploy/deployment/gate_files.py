"""The files that gates name, kept in the store by content, so that another machine can run the gates again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfs_deploy.errors import Contention, InvalidInput, StoreError
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.store.protocol import StateDocuments
from tfs_deploy.validation.config import Gates, as_kept, from_kept
from tfs_deploy.validation.report import KeptGates

# A gate reads its file into memory; what is larger belongs to a program of its own.
MAX_FILE_BYTES = 2 << 30
# Below the limit of a state document, and small enough to hold in memory.
PART_BYTES = 8 << 20
_VALIDATE_AGAIN = "Validate the version again with its gates file."


@dataclass(frozen=True, slots=True)
class _Index:
    """The document ``gate_files/<sha256>/index.json``, written when every part is there."""

    size: int
    parts: int


def keep(documents: StateDocuments, gates: Gates) -> KeptGates:
    """Copy the files that `gates` name into the store, each content once, and return the gates as plain data.

    A file is read in parts of PART_BYTES. Raises InvalidInput for a file that cannot be read, changes while it is read
    or has more than MAX_FILE_BYTES, and what the documents raise.
    """
    return as_kept(gates, {path: _keep_file(documents, Path(path)) for path in gates.paths()})


def restore(documents: StateDocuments, kept: KeptGates, folder: Path) -> Gates:
    """Write the files of `kept` below `folder` and return the gates with their paths there.

    Raises StoreError for a file that the store does not hold as it was kept, InvalidInput for gates that this release
    does not know.
    """
    gates = from_kept(kept)
    restored = {path: str(_restore_file(documents, kept.files.get(path, ""), path, folder)) for path in gates.paths()}
    return gates.with_paths(lambda path: restored[path])


def _keep_file(documents: StateDocuments, path: Path) -> str:
    """Return the SHA-256 of a file that the store holds from now on."""
    digest, expected_size = _digest(path)
    if documents.read(_index_key(digest)) is not None:
        return digest
    copied, size, count = hashlib.sha256(), 0, 0
    for count, part in enumerate(_parts(path), start=1):
        _write(documents, _part_key(digest, count), part)
        copied.update(part)
        size += len(part)
        if size > expected_size:
            break  # it grows, perhaps for ever
    if copied.hexdigest() != digest:
        raise InvalidInput(
            f"The gate file {str(path)!r} changed while it was read.", "Validate again when it is complete."
        )
    _write(documents, _index_key(digest), to_json(_Index(size, count)))
    return digest


def _restore_file(documents: StateDocuments, digest: str, path: str, folder: Path) -> Path:
    """Write the file that gates called `path` below `folder`, under its digest and its own name."""
    index = documents.read(_index_key(digest)) if digest else None
    if index is None:
        raise StoreError(f"The store does not hold the gate file {path!r} any more.", _VALIDATE_AGAIN)
    target = folder / digest / Path(path).name
    copied = _copy(documents, digest, from_json(_Index, index.body).parts, target)
    if copied != digest:
        # Without its index the file is copied anew by the next validation.
        documents.delete(_index_key(digest))
        raise StoreError(
            f"The store holds other bytes (SHA-256 {copied[:12]}...) of the gate file {path!r} than were "
            f"kept ({digest[:12]}...).",
            _VALIDATE_AGAIN,
        )
    return target


def _copy(documents: StateDocuments, digest: str, parts: int, target: Path) -> str:
    """Write the parts that the store holds to `target` and return the SHA-256 of what was written."""
    copied = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as stream:
            for number in range(1, parts + 1):
                part = documents.read(_part_key(digest, number))
                # A missing part makes another digest, too.
                body = b"" if part is None else part.body
                copied.update(body)
                stream.write(body)
    except OSError as error:
        raise StoreError(
            f"The gate file {target.name!r} cannot be written to {str(target.parent)!r}: {error.strerror}.",
            "Make room in the folder for temporary files, or set TMPDIR to another one.",
        ) from error
    return copied.hexdigest()


def _digest(path: Path) -> tuple[str, int]:
    """Return the SHA-256 and the size of a file."""
    digest, size = hashlib.sha256(), 0
    for part in _parts(path):
        digest.update(part)
        size += len(part)
        if size > MAX_FILE_BYTES:
            raise InvalidInput(
                f"The gate file {str(path)!r} has more than {MAX_FILE_BYTES >> 20} MiB.",
                "Give the gate a smaller sample of the data.",
            )
    return digest.hexdigest(), size


def _parts(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            while part := stream.read(PART_BYTES):
                yield part
    except OSError as error:
        raise InvalidInput(
            f"The gate file {str(path)!r} cannot be read: {error.strerror}.", "Name a readable file."
        ) from error


def _write(documents: StateDocuments, key: str, body: bytes) -> None:
    """Write a document whose key says its content, unless it is there."""
    existing = documents.read(key)
    if existing is not None and existing.body == body:
        return
    try:
        documents.write(key, body, expected=None if existing is None else existing.tag)
    except Contention:
        # Another validation writes the same content.
        existing = documents.read(key)
        if existing is None or existing.body != body:
            raise


def _index_key(digest: str) -> str:
    return f"gate_files/{digest}/index.json"


def _part_key(digest: str, number: int) -> str:
    return f"gate_files/{digest}/{number:05}"
