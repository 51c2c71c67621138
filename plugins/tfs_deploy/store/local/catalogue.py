"""The versions in a store on a file system. Reads only, takes no locks, works on a read-only mount."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfs_deploy.errors import CorruptModel, InvalidInput, NotFound, StoreError
from tfs_deploy.names import check_model_name, check_version, is_model_name, served_number
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.files import check_relative_path
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, FileEntry, Manifest
from tfs_deploy.store.documents import read_pointer, write_pointer
from tfs_deploy.store.download.target import DownloadTarget
from tfs_deploy.store.local.filesystem import reporting
from tfs_deploy.store.local.layout import LocalLayout
from tfs_deploy.store.local.numbering import names_in
from tfs_deploy.store.protocol import MAX_READ_BYTES, ModelVersion, Progress


class Catalogue:
    """Lists and reads complete versions."""

    def __init__(self, layout: LocalLayout) -> None:
        self._layout = layout

    def models(self) -> tuple[str, ...]:
        """Return, sorted, the models with at least one complete version."""
        names = [name for name in names_in(self._layout.root) if is_model_name(name)]
        return tuple(sorted(name for name in names if (self._layout.root / name).is_dir() and self.versions(name)))

    def change_token(self, model: str) -> str:
        """Return a token that changes with every change of the model's directory."""
        base = self._layout.base(check_model_name(model))
        with reporting("read", base):
            try:
                status = base.stat()
            except FileNotFoundError:
                return ""
        # The modification time has steps of milliseconds, and only the time notices directories made by hand.
        cached = self._layout.directory_cache.read(model)
        return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{cached.token if cached else ''}"

    def versions(self, model: str) -> tuple[int, ...]:
        """Return the complete versions in rising order."""
        directory = self._layout.directory
        numbers = self._numbers(check_model_name(model))
        return tuple(sorted(number for number in numbers if (directory(model, number) / MANIFEST_PATH).is_file()))

    def manifest(self, model: str, version: int) -> Manifest:
        """Return the manifest of a complete version."""
        directory = self._layout.directory(check_model_name(model), check_version(version))
        with reporting("read the manifest of", directory):
            try:
                return manifests.read(directory)
            except NotFound as error:
                raise self._not_found(model, version) from error

    def find(self, model: str, fingerprint: str) -> ModelVersion | None:
        """Return the highest complete version with these bytes, or None.

        Reads one document and one manifest. Only versions without a claim, which other tools put there, are read one by
        one.
        """
        pointer = read_pointer(self._layout.documents, check_model_name(model), fingerprint)
        if pointer is not None and self._has(model, pointer, fingerprint):
            return self._version(model, pointer, fingerprint)
        cached = self._layout.directory_cache.valid(model, self._layout.base(model))
        candidates = set(cached.foreign) if cached else self._numbers(model)
        if cached is None and pointer is None:
            candidates -= self._layout.numbers.claimed(model)
        for version in sorted(candidates, reverse=True):
            if self._has(model, version, fingerprint):
                return self._version(model, version, fingerprint)
        return None

    def remember(self, model: str, fingerprint: str, version: int) -> ModelVersion:
        """Note `version` as the one with these bytes, and return it; the caller holds the lock of the fingerprint."""
        write_pointer(self._layout.documents, model, fingerprint, version)
        return self._version(model, version, fingerprint)

    def read(self, model: str, version: int, path: str) -> bytes:
        """Return one file of a complete version."""
        self.manifest(model, version)
        directory = self._layout.directory(model, version)
        file = directory / check_relative_path(path)
        with reporting("read", file):
            if not file.is_file():
                raise NotFound(f"Version {version} of model {model!r} has no file {path!r}.", "Name one of its files.")
            if not file.resolve().is_relative_to(directory.resolve()):
                raise StoreError(f"The link {str(file)!r} leaves the version's directory.", "Remove that link.")
            with file.open("rb") as stream:
                data = stream.read(MAX_READ_BYTES + 1)
        if len(data) > MAX_READ_BYTES:
            raise InvalidInput(
                f"The file {path!r} of version {version} of model {model!r} is larger than {MAX_READ_BYTES} bytes.",
                f"Open the file itself: {str(file)!r}.",
            )
        return data

    def verify(self, model: str, version: int) -> None:
        """Read every byte of a complete version; raise CorruptModel naming the first file that is wrong."""
        manifest = self.manifest(model, version)
        directory = self._layout.directory(model, version)
        with reporting("read", directory):
            manifests.verify(directory, manifest, deep=True)

    def download(self, model: str, version: int, target: Path, *, progress: Progress | None = None) -> None:
        """Copy a complete version into the directory `target`."""
        manifest = self.manifest(model, version)
        directory = self._layout.directory(model, version)
        where = f"version {version} of model {model!r}"
        DownloadTarget(manifest, VersionFiles(directory, where), where=where, progress=progress).fill(target)

    def _numbers(self, model: str) -> set[int]:
        """Return the numbers of the directories that may be versions of ours."""
        numbers = ((name, served_number(name)) for name in names_in(self._layout.base(model)))
        # tfs_deploy writes the plain decimal form only; `007`, which is served as 7, comes from another tool.
        return {number for name, number in numbers if number and number > 0 and name == str(number)}

    def _not_found(self, model: str, version: int) -> NotFound:
        there = self.versions(model)
        # Only the newest: there may be thousands.
        newest = ", ".join(str(number) for number in there[-5:])
        remedy = f"The newest are {newest}." if there else "It has none: publish one first."
        return NotFound(f"Model {model!r} has no complete version {version} in {str(self._layout.root)!r}.", remedy)

    def _has(self, model: str, version: int, fingerprint: str) -> bool:
        directory: Path = self._layout.directory(model, version)
        with reporting("read the manifest of", directory):
            try:
                return manifests.read(directory).fingerprint == fingerprint
            except (NotFound, CorruptModel):
                return False

    def _version(self, model: str, version: int, fingerprint: str) -> ModelVersion:
        return ModelVersion(model, version, fingerprint, str(self._layout.directory(model, version)))


_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class VersionFiles:
    """The files of a version below `directory`, as a download reads them; `where` names the version in errors."""

    directory: Path
    where: str

    def begin(self, entry: FileEntry) -> None:
        """See `tfs_deploy.store.download.state.Source`; `blocks` raises."""

    def blocks(self, entry: FileEntry, start: int, end: int) -> Iterator[bytes]:
        """See `tfs_deploy.store.download.state.Source`."""
        path = self.directory / entry.path
        try:
            with reporting("read", path), path.open("rb", buffering=0) as stream:
                stream.seek(start)
                # One byte beyond the expected end shows that the file is longer than it should be.
                left = end - start + (end == entry.size)
                while left and (block := stream.read(min(_BLOCK_BYTES, left))):
                    left -= len(block)
                    yield block
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise CorruptModel(
                    f"The file {entry.path!r} of {self.where} is missing.",
                    "Withdraw that version and publish the model again.",
                ) from error
            raise
