"""A store put together from three parts: what it holds, how versions come in, and how they go."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.store.protocol import ModelVersion, Progress, Published, StateDocuments


class Holdings(Protocol):
    """Lists and reads complete versions; each method as in `tfs_deploy.store.protocol.Store`."""

    def models(self) -> tuple[str, ...]: ...
    def change_token(self, model: str) -> str: ...
    def versions(self, model: str) -> tuple[int, ...]: ...
    def manifest(self, model: str, version: int) -> Manifest: ...
    def find(self, model: str, fingerprint: str) -> ModelVersion | None: ...
    def read(self, model: str, version: int, path: str) -> bytes: ...
    def verify(self, model: str, version: int) -> None: ...
    def download(self, model: str, version: int, target: Path, progress: Progress | None) -> None: ...


class Intake(Protocol):
    """Makes directories versions."""

    def publish(
        self, staged: Path, manifest: Manifest, model: str, *, above: int, progress: Progress | None
    ) -> Published: ...


class Removal(Protocol):
    """Takes versions out of sight, and away."""

    def withdraw(self, model: str, version: int, reason: str) -> None: ...
    def delete(self, model: str, version: int) -> None: ...


class AssembledStore:
    """A `tfs_deploy.store.protocol.Store` out of its parts; a kind of store says in its constructor what they are."""

    def __init__(
        self, uri: str, documents: StateDocuments, *, holdings: Holdings, intake: Intake, removal: Removal
    ) -> None:
        self._uri = uri
        self._documents = documents
        self._holdings = holdings
        self._intake = intake
        self._removal = removal

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def documents(self) -> StateDocuments:
        return self._documents

    def models(self) -> tuple[str, ...]:
        return self._holdings.models()

    def change_token(self, model: str) -> str:
        return self._holdings.change_token(model)

    def versions(self, model: str) -> tuple[int, ...]:
        return self._holdings.versions(model)

    def manifest(self, model: str, version: int) -> Manifest:
        return self._holdings.manifest(model, version)

    def find(self, model: str, fingerprint: str) -> ModelVersion | None:
        return self._holdings.find(model, fingerprint)

    def publish(
        self, staged: Path, manifest: Manifest, model: str, *, above: int = 0, progress: Progress | None = None
    ) -> Published:
        return self._intake.publish(Path(staged), manifest, model, above=above, progress=progress)

    def read(self, model: str, version: int, path: str) -> bytes:
        return self._holdings.read(model, version, path)

    def verify(self, model: str, version: int) -> None:
        self._holdings.verify(model, version)

    def download(self, model: str, version: int, target: Path, *, progress: Progress | None = None) -> None:
        self._holdings.download(model, version, Path(target), progress)

    def withdraw(self, model: str, version: int, reason: str) -> None:
        self._removal.withdraw(model, version, reason)

    def delete(self, model: str, version: int) -> None:
        self._removal.delete(model, version)
