"""A store in memory that keeps the promises of every store; for tests of the steps that use one."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.errors import Contention, CorruptModel, InvalidInput, NotFound, StoreError
from tfs_deploy.jsonable import to_json
from tfs_deploy.names import MAX_VERSION, check_model_name, check_version
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.files import check_relative_path
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, FileEntry, Manifest
from tfs_deploy.store.document_format import decode, encode
from tfs_deploy.store.documents import check_folder, check_key, check_prefix, write_withdrawal
from tfs_deploy.store.download.target import DownloadTarget
from tfs_deploy.store.protocol import (
    MAX_DOCUMENT_BYTES,
    MAX_READ_BYTES,
    Document,
    ModelVersion,
    Progress,
    Published,
)


class FakeStateDocuments:
    """State documents in a dict."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def read(self, key: str) -> Document | None:
        data = self.stored.get(check_key(key))
        return None if data is None else decode(data)

    def write(self, key: str, body: bytes, *, expected: str | None) -> str:
        check_key(key)
        if len(body) > MAX_DOCUMENT_BYTES:
            raise InvalidInput(f"The state document {key!r} is too large.", "Make it smaller.")
        with self._lock:
            found = self.read(key)
            if (found.tag if found else None) != expected:
                state = "exists already" if expected is None else "was changed by another process meanwhile"
                raise Contention(f"The state document {key!r} {state}.", "Read it again.")
            self.stored[key], tag = encode(body)
        return tag

    def list(self, prefix: str) -> tuple[str, ...]:
        check_prefix(prefix)
        return tuple(sorted(key for key in dict(self.stored) if key.startswith(prefix)))

    def folders(self, prefix: str) -> tuple[str, ...]:
        check_folder(prefix)
        below = (key[len(prefix) :] for key in dict(self.stored) if key.startswith(prefix))
        return tuple(sorted({rest.split("/", 1)[0] for rest in below if "/" in rest}))

    def delete(self, key: str) -> None:
        self.stored.pop(check_key(key), None)


@dataclass
class _Model:
    used: set[int] = field(default_factory=set)
    changes: int = 0
    live: dict[int, tuple[Manifest, dict[str, bytes]]] = field(default_factory=dict)


class FakeStore:
    """Versions in dicts; the objects of one store are the store, so `connect` fixtures return the same one."""

    directory: Path | None = None

    def __init__(
        self, *, clock: Clock | None = None, uri: str = "memory://store", requires_sync_agent: bool = False
    ) -> None:
        self.uri = uri
        self.requires_sync_agent = requires_sync_agent
        self.documents = FakeStateDocuments()
        self._clock = clock or SystemClock()
        self._models: dict[str, _Model] = {}
        self._lock = threading.RLock()

    def models(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, known in dict(self._models).items() if known.live))

    def change_token(self, model: str) -> str:
        changes = self._model(model).changes
        return str(changes) if changes else ""

    def versions(self, model: str) -> tuple[int, ...]:
        return tuple(sorted(self._model(model).live))

    def manifest(self, model: str, version: int) -> Manifest:
        return self._version(model, version)[0]

    def find(self, model: str, fingerprint: str) -> ModelVersion | None:
        live = dict(self._model(model).live)
        numbers = [number for number, (manifest, _) in live.items() if manifest.fingerprint == fingerprint]
        return self._named(model, max(numbers), fingerprint) if numbers else None

    def publish(
        self, staged: Path, manifest: Manifest, model: str, *, above: int = 0, progress: Progress | None = None
    ) -> Published:
        known = self._model(model)
        if isinstance(above, bool) or not isinstance(above, int) or above >= MAX_VERSION:
            raise InvalidInput(f"No version number is above {above!r}.", "Use a smaller one.")
        manifests.verify(staged, manifest, deep=True)
        files = {entry.path: (staged / entry.path).read_bytes() for entry in manifest.files}
        if progress is not None:
            progress(manifest.total_bytes)
        with self._lock:
            existing = self.find(model, manifest.fingerprint)
            if existing is not None:
                return Published(existing, uploaded_bytes=0, created=False)
            number = max([above, 0, *known.used]) + 1
            if number > MAX_VERSION:
                raise StoreError(f"The version numbers of model {model!r} are used up.", "Use another model name.")
            known.used.add(number)
            known.changes += 1
            known.live[number] = (manifest, {**files, MANIFEST_PATH: to_json(manifest)})
        version = self._named(model, number, manifest.fingerprint)
        return Published(version, uploaded_bytes=manifest.total_bytes, created=True)

    def read(self, model: str, version: int, path: str) -> bytes:
        files = self._version(model, version)[1]
        if check_relative_path(path) not in files:
            raise NotFound(f"Version {version} of model {model!r} has no file {path!r}.", "Name one of its files.")
        if len(files[path]) > MAX_READ_BYTES:
            raise InvalidInput(f"The file {path!r} is larger than {MAX_READ_BYTES} bytes.", "Read a smaller one.")
        return files[path]

    def verify(self, model: str, version: int) -> None:
        manifest, files = self._version(model, version)
        for entry in manifest.files:
            if hashlib.sha256(files[entry.path]).hexdigest() != entry.sha256:
                raise CorruptModel(f"The file {entry.path!r} of version {version} is not as published.", "Withdraw it.")

    def download(self, model: str, version: int, target: Path, *, progress: Progress | None = None) -> None:
        manifest, files = self._version(model, version)
        where = f"version {version} of model {model!r}"
        DownloadTarget(manifest, _Files(files), where=where, progress=progress).fill(target)

    def spoil(self, model: str, version: int, path: str, data: bytes) -> None:
        """Put other bytes under a published file, as a broken disk does."""
        self._version(model, version)[1][path] = data

    def withdraw(self, model: str, version: int, reason: str) -> None:
        self._remove(model, version)
        write_withdrawal(self.documents, model, version, reason, self._clock)

    def delete(self, model: str, version: int) -> None:
        self._remove(model, version)

    def put_placeholder(self, model: str) -> None:
        if not self.versions(model):
            raise NotFound(f"Model {model!r} has no version.", "Publish it first.")

    def remove_placeholder(self, model: str) -> None:
        check_model_name(model)

    def _remove(self, model: str, version: int) -> None:
        known = self._model(model)
        if check_version(version) not in known.used:
            raise NotFound(f"Model {model!r} has no version {version} in {self.uri!r}.", "Check the number.")
        with self._lock:
            if known.live.pop(version, None):
                known.changes += 1

    def _model(self, model: str) -> _Model:
        return self._models.setdefault(check_model_name(model), _Model())

    def _version(self, model: str, version: int) -> tuple[Manifest, dict[str, bytes]]:
        live = self._model(model).live
        if check_version(version) not in live:
            raise NotFound(f"Model {model!r} has no complete version {version} in {self.uri!r}.", "Check the number.")
        return live[version]

    def _named(self, model: str, version: int, fingerprint: str) -> ModelVersion:
        return ModelVersion(model, version, fingerprint, f"{self.uri}/{model}/{version}")


@dataclass(frozen=True)
class _Files:
    """The files of one version, as a download takes them."""

    files: dict[str, bytes]

    def begin(self, entry: FileEntry) -> None:
        return None

    def blocks(self, entry: FileEntry, start: int, end: int) -> Iterator[bytes]:
        whole = (start, end) == (0, entry.size)
        yield self.files[entry.path] if whole else self.files[entry.path][start:end]
