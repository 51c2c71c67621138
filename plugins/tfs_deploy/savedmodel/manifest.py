"""The manifest of a model version: every file with its size and SHA-256, and one fingerprint over them all.

The fingerprint is the SHA-256 of the canonical JSON list ``[[path, size, sha256], ...]``, sorted by path, of every
file but the manifest itself. Two directories have the same fingerprint if and only if they hold the same files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tfs_deploy.clock import Clock
from tfs_deploy.errors import CorruptModel, InvalidInput, NotFound
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.savedmodel.files import check_relative_path, hash_files, list_files, write_file
from tfs_deploy.serving.signature import Signature, signatures_of_saved_model

MANIFEST_PATH = "assets.extra/tfs_deploy_manifest.json"
# A manifest takes about 150 bytes per file; 64 MiB is some 400,000 files.
MAX_MANIFEST_BYTES = 64 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RESTORE = "Publish or export the model again; do not change files of a finished version."


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: posix path relative to the SavedModel, size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a SavedModel directory and where it came from; ``created_at`` is ISO 8601 in UTC."""

    fingerprint: str
    files: tuple[FileEntry, ...]
    signatures: dict[str, Signature]
    tensorflow_version: str
    provenance: dict[str, str]
    created_at: str

    @property
    def total_bytes(self) -> int:
        """Return the size of all files together, without the manifest."""
        return sum(entry.size for entry in self.files)


@dataclass(frozen=True, slots=True)
class StagedModel:
    """A finished SavedModel directory that is not published yet."""

    path: str
    manifest: Manifest


def build(
    directory: Path, *, tensorflow_version: str = "", provenance: Mapping[str, str] | None = None, clock: Clock
) -> Manifest:
    """Describe `directory`: hash every file once, in threads, and read the signatures.

    Raises InvalidInput for names that cannot be stored everywhere, links that leave the directory and special
    files; NotFound or CorruptModel when it is not a SavedModel.
    """
    signatures = signatures_of_saved_model(directory)
    files = _hashed(directory, [path for path in list_files(directory) if path != MANIFEST_PATH])
    return Manifest(
        fingerprint=fingerprint_of(files),
        files=files,
        signatures=signatures,
        tensorflow_version=tensorflow_version,
        provenance=dict(provenance or {}),
        created_at=clock.now().isoformat(),
    )


def fingerprint_of(files: Iterable[FileEntry]) -> str:
    """Return ``sha256:<hex>`` over the files' paths, sizes and digests; their order does not matter."""
    rows = sorted([entry.path, entry.size, entry.sha256] for entry in files)
    canonical = json.dumps(rows, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(canonical.encode("ascii")).hexdigest()


def write(directory: Path, manifest: Manifest) -> None:
    """Write `manifest` into `directory`, whole or not at all; equal manifests give equal bytes."""
    write_file(directory / MANIFEST_PATH, to_json(manifest))


def read(directory: Path) -> Manifest:
    """Read and check the manifest of `directory`; raise NotFound without one, CorruptModel for a bad one."""
    path = directory / MANIFEST_PATH
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFound(
            f"{str(directory)!r} has no manifest ({MANIFEST_PATH}).",
            "Name the directory of an exported or published version.",
        ) from error
    return parse(data, where=str(path))


def parse(data: bytes, *, where: str) -> Manifest:
    """Parse and check a manifest's bytes; `where` names them in errors.

    Paths that leave the directory, repeated paths and a fingerprint that does not fit the list are CorruptModel.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise CorruptModel(f"The manifest {where!r} is larger than {MAX_MANIFEST_BYTES} bytes.", _RESTORE)
    try:
        manifest = from_json(Manifest, data)
    except (CorruptModel, RecursionError) as error:
        reason = error.cause if isinstance(error, CorruptModel) else "it is nested too deeply."
        raise CorruptModel(f"The manifest {where!r} cannot be read: {reason}", _RESTORE) from error
    _check(manifest, where)
    return manifest


def verify(directory: Path, manifest: Manifest, *, deep: bool = True) -> None:
    """Compare `directory` with `manifest`; raise CorruptModel naming the first file that is wrong.

    ``deep=False`` compares names and sizes only; deep also compares every byte (by digest) and the signatures.
    """
    _check(manifest, MANIFEST_PATH)
    _compare_names(directory, manifest)
    _compare_sizes(directory, manifest)
    if deep:
        _compare_contents(directory, manifest)


def _hashed(directory: Path, paths: list[str]) -> tuple[FileEntry, ...]:
    return tuple(FileEntry(path, size, digest) for path, size, digest in hash_files(directory, paths))


def _check(manifest: Manifest, where: str) -> None:
    seen: set[str] = set()
    for entry in manifest.files:
        try:
            check_relative_path(entry.path)
        except InvalidInput as error:
            raise CorruptModel(f"The manifest {where!r} lists a bad path: {error.cause}", _RESTORE) from error
        if entry.path in seen or entry.path == MANIFEST_PATH:
            raise CorruptModel(f"The manifest {where!r} must not list {entry.path!r} (again).", _RESTORE)
        if entry.size < 0 or not _SHA256.fullmatch(entry.sha256):
            raise CorruptModel(f"The manifest {where!r} has no usable size and SHA-256 for {entry.path!r}.", _RESTORE)
        seen.add(entry.path)
    expected = fingerprint_of(manifest.files)
    if manifest.fingerprint != expected:
        raise CorruptModel(
            f"The manifest {where!r} says fingerprint {manifest.fingerprint!r}, but its files have {expected!r}.",
            _RESTORE,
        )


def _compare_names(directory: Path, manifest: Manifest) -> None:
    try:
        present = set(list_files(directory)) - {MANIFEST_PATH}
    except InvalidInput as error:
        raise CorruptModel(error.cause, _RESTORE) from error
    listed = {entry.path for entry in manifest.files}
    for path in sorted(present ^ listed):
        problem = "is missing" if path in listed else "is not in the manifest"
        raise CorruptModel(f"The file {path!r} in {str(directory)!r} {problem}.", _RESTORE)


def _compare_sizes(directory: Path, manifest: Manifest) -> None:
    for entry in manifest.files:
        try:
            size = (directory / entry.path).stat().st_size
        except FileNotFoundError as error:
            raise CorruptModel(f"The file {entry.path!r} in {str(directory)!r} is missing.", _RESTORE) from error
        if size != entry.size:
            raise CorruptModel(
                f"The file {entry.path!r} in {str(directory)!r} has {size} bytes instead of {entry.size}.", _RESTORE
            )


def _compare_contents(directory: Path, manifest: Manifest) -> None:
    try:
        actual_files = _hashed(directory, [entry.path for entry in manifest.files])
    except InvalidInput as error:
        raise CorruptModel(error.cause, _RESTORE) from error
    for entry, actual in zip(manifest.files, actual_files, strict=True):
        if (entry.size, entry.sha256) != (actual.size, actual.sha256):
            raise CorruptModel(
                f"The file {entry.path!r} in {str(directory)!r} has SHA-256 {actual.sha256[:12]}... "
                f"instead of {entry.sha256[:12]}....",
                _RESTORE,
            )
    if signatures_of_saved_model(directory) != manifest.signatures:
        raise CorruptModel(f"The signatures of {str(directory)!r} are not those of its manifest.", _RESTORE)


def hex_of(fingerprint: str) -> str:
    """Return the hex digits of ``sha256:<hex>``."""
    return fingerprint.rpartition(":")[2]
