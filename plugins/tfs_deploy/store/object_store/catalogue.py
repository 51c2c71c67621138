"""The versions in a store in S3. Reads only; needs no right to write."""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tfs_deploy.clock import Clock
from tfs_deploy.errors import CorruptModel, InvalidInput, NotFound
from tfs_deploy.names import MAX_VERSION, check_model_name, check_version, is_model_name
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.files import check_relative_path
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, MAX_MANIFEST_BYTES, FileEntry, Manifest
from tfs_deploy.store.documents import read_pointer
from tfs_deploy.store.download.target import DownloadTarget
from tfs_deploy.store.object_store.address import WITHDRAWN_MANIFEST_PATH, folder, manifest_name
from tfs_deploy.store.object_store.change_token import ChangeTokens
from tfs_deploy.store.object_store.conditional_write_check import ConditionalWriteCheck
from tfs_deploy.store.object_store.connection import Connection
from tfs_deploy.store.object_store.documents import S3StateDocuments
from tfs_deploy.store.object_store.numbering import Numbers
from tfs_deploy.store.object_store.objects import Objects
from tfs_deploy.store.object_store.obstore_transfer import open_transfer
from tfs_deploy.store.object_store.publish_lease import PublishLeases
from tfs_deploy.store.object_store.transfer import Transfer
from tfs_deploy.store.object_store.version_files import Fetcher
from tfs_deploy.store.protocol import MAX_READ_BYTES, ModelVersion, Progress

# Requests that wait for the server rather than for a core.
_HEAD_THREADS = 32
_RESTORE = "Withdraw that version and publish the model again."
# The form that tfs_deploy writes; `007` comes from another tool.
_PLAIN = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoreParts:
    """What one store in S3 is made of; its reader and its publisher share the parts."""

    objects: Objects
    documents: S3StateDocuments
    transfer: Transfer
    conditional_writes: ConditionalWriteCheck
    numbers: Numbers
    change_tokens: ChangeTokens
    leases: PublishLeases
    clock: Clock

    @classmethod
    def of(cls, connection: Connection, clock: Clock, *, lease_seconds: float) -> StoreParts:
        """Return the parts of the store behind `connection`; nothing is sent yet."""
        objects = Objects(connection, clock)
        conditional_writes = ConditionalWriteCheck(objects, endpoint=connection.endpoint, clock=clock)
        documents = S3StateDocuments(objects, conditional_writes)
        return cls(
            objects=objects,
            documents=documents,
            transfer=open_transfer(connection),
            conditional_writes=conditional_writes,
            numbers=Numbers(objects, documents, conditional_writes, clock),
            change_tokens=ChangeTokens(objects, documents, clock),
            leases=PublishLeases(documents, clock, lease_seconds=lease_seconds),
            clock=clock,
        )


class Catalogue:
    """Lists and reads complete versions."""

    def __init__(self, parts: StoreParts) -> None:
        self._parts = parts
        self._objects = parts.objects
        self._fetcher = Fetcher(parts.objects, parts.transfer)

    def models(self) -> tuple[str, ...]:
        """Return, sorted, the models with at least one complete version."""
        names = [name for name in self._objects.folders("") if is_model_name(name)]
        return tuple(sorted(name for name in names if self._has_versions(name)))

    def change_token(self, model: str) -> str:
        """Return a token that changes whenever the versions do."""
        return self._parts.change_tokens.token(model)

    def versions(self, model: str) -> tuple[int, ...]:
        """Return the complete versions in rising order."""
        numbers = self._listed(check_model_name(model))
        with ThreadPoolExecutor(_HEAD_THREADS, thread_name_prefix="tfs-deploy-head") as pool:
            complete = pool.map(lambda number: self.is_complete(model, number), numbers)
            return tuple(number for number, there in zip(numbers, complete, strict=True) if there)

    def is_complete(self, model: str, version: int) -> bool:
        """Tell whether the version's manifest is there."""
        return self._objects.head(manifest_name(model, version)) is not None

    def manifest(self, model: str, version: int) -> Manifest:
        """Return the manifest of a complete version."""
        name = manifest_name(check_model_name(model), check_version(version))
        stored = self._objects.get(name, limit=MAX_MANIFEST_BYTES)
        if stored is None:
            raise self._not_found(model, version)
        return manifests.parse(stored.body, where=f"{self._objects.address.uri}/{name}")

    def find(self, model: str, fingerprint: str) -> ModelVersion | None:
        """Return the highest complete version with these bytes, or None; the cost is two requests as a rule."""
        pointer = read_pointer(self._parts.documents, check_model_name(model), fingerprint)
        if pointer is not None and self._has(model, pointer, fingerprint):
            return self.version(model, pointer, fingerprint)
        # Versions that other tools copied into the bucket have no claim, and are read one by one.
        for number in sorted(self._parts.numbers.known(model).foreign, reverse=True):
            if self._has(model, number, fingerprint):
                return self.version(model, number, fingerprint)
        return None

    def read(self, model: str, version: int, path: str) -> bytes:
        """Return one file of a complete version, whose digest is right."""
        manifest = self.manifest(model, version)
        check_relative_path(path)
        if path == MANIFEST_PATH:
            stored = self._objects.get(manifest_name(model, version))
            return b"" if stored is None else stored.body
        entry = next((entry for entry in manifest.files if entry.path == path), None)
        if entry is None:
            raise NotFound(f"Version {version} of model {model!r} has no file {path!r}.", "Name one of its files.")
        if entry.size > MAX_READ_BYTES:
            raise InvalidInput(
                f"The file {path!r} of version {version} of model {model!r} is larger than {MAX_READ_BYTES} bytes.",
                "Download the version.",
            )
        data = b"".join(bytes(block) for block in self._fetcher.files(model, version).whole(entry))
        if (len(data), hashlib.sha256(data).hexdigest()) != (entry.size, entry.sha256):
            raise self._corrupt_file(model, version, path)
        return data

    def verify(self, model: str, version: int) -> None:
        """Read every byte of a complete version; raise CorruptModel naming the first file that is wrong."""
        manifest = self.manifest(model, version)
        self.compare_sizes(model, version, manifest)
        files = self._fetcher.files(model, version)

        def check(entry: FileEntry) -> bool:
            digest = hashlib.sha256()
            for block in files.whole(entry):
                digest.update(block)
            return digest.hexdigest() == entry.sha256

        with ThreadPoolExecutor(self._fetcher.threads, thread_name_prefix="tfs-deploy-verify") as pool:
            for entry, right in zip(manifest.files, pool.map(check, manifest.files), strict=True):
                if not right:
                    raise self._corrupt_file(model, version, entry.path)

    def compare_sizes(self, model: str, version: int, manifest: Manifest) -> None:
        """Compare names and sizes with `manifest`; raise CorruptModel naming the first file that is wrong."""
        start = folder(model, version)
        objects = ((listed.name[len(start) :], listed.size) for listed in self._objects.list(start))
        # Some tools write an empty object for each folder, with a name that ends with a slash.
        there = {path: size for path, size in objects if path and not path.endswith("/")}
        for path in (MANIFEST_PATH, WITHDRAWN_MANIFEST_PATH):
            there.pop(path, None)
        wanted = {entry.path: entry.size for entry in manifest.files}
        for path in sorted({*there, *wanted}):
            if there.get(path) != wanted.get(path):
                raise self._corrupt_file(model, version, path)

    def download(self, model: str, version: int, target: Path, *, progress: Progress | None = None) -> None:
        """Copy a complete version into the directory `target`."""
        manifest = self.manifest(model, version)
        DownloadTarget(
            manifest,
            self._fetcher.files(model, version),
            where=f"version {version} of model {model!r}",
            threads=self._fetcher.threads,
            pieces=self._fetcher.pieces,
            progress=progress,
        ).fill(target)

    def version(self, model: str, version: int, fingerprint: str) -> ModelVersion:
        """Return the value that names a version of this store."""
        return ModelVersion(model, version, fingerprint, f"{self._objects.address.uri}/{model}/{version}")

    def _listed(self, model: str) -> list[int]:
        names = self._objects.folders(f"{model}/")
        numbers = (int(name) for name in names if _PLAIN.fullmatch(name))
        return sorted(number for number in numbers if number <= MAX_VERSION)

    def _has_versions(self, model: str) -> bool:
        return any(self.is_complete(model, number) for number in reversed(self._listed(model)))

    def _has(self, model: str, version: int, fingerprint: str) -> bool:
        try:
            return self.manifest(model, version).fingerprint == fingerprint
        except (NotFound, CorruptModel):
            return False

    def _not_found(self, model: str, version: int) -> NotFound:
        there = [number for number in self._listed(model) if number != version][-5:]
        newest = [str(number) for number in there if self.is_complete(model, number)]
        remedy = f"The newest are {', '.join(newest)}." if newest else "Check the number, or publish one first."
        return NotFound(f"Model {model!r} has no complete version {version} in {self._objects.address.uri!r}.", remedy)

    def _corrupt_file(self, model: str, version: int, path: str) -> CorruptModel:
        return CorruptModel(
            f"The file {path!r} of version {version} of model {model!r} is not as it was published.",
            _RESTORE,
        )
