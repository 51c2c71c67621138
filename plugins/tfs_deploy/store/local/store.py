"""The store in a directory."""

from __future__ import annotations

import os
from pathlib import Path

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.errors import StoreError
from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.store.local.catalogue import Catalogue
from tfs_deploy.store.local.filesystem import Filesystem
from tfs_deploy.store.local.layout import LocalLayout
from tfs_deploy.store.local.publishing import Publisher
from tfs_deploy.store.local.removal import Remover
from tfs_deploy.store.protocol import ModelVersion, Progress, Published, StateDocuments


class LocalStore:
    """Versions in ``<root>/<model>/<version>/``; see `tfs_deploy.store.local.layout`.

    The last segment of `root` may be missing and is created by the first write; its parent must be there, so that a
    mistyped path is an error and not a new store. Works on mounts without hard links; what it asks of a mount is
    ``flock``, exclusive create, and a rename that is one step.
    """

    def __init__(
        self,
        root: Path,
        *,
        clock: Clock | None = None,
        files: Filesystem | None = None,
        publish_wait_seconds: float = 600.0,
    ) -> None:
        """Open the store; `publish_wait_seconds` is how long to wait for another publisher of the same bytes."""
        path = Path(os.path.abspath(root))
        _check_root(path)
        layout = LocalLayout.at(path, files=files or Filesystem(), clock=clock or SystemClock())
        self._layout = layout
        self._catalogue = Catalogue(layout)
        self._publisher = Publisher(layout, self._catalogue, wait_seconds=publish_wait_seconds)
        self._remover = Remover(layout)

    @property
    def uri(self) -> str:
        return str(self._layout.root)

    @property
    def documents(self) -> StateDocuments:
        return self._layout.documents

    def models(self) -> tuple[str, ...]:
        return self._catalogue.models()

    def tip(self, model: str) -> str:
        return self._catalogue.tip(model)

    def versions(self, model: str) -> tuple[int, ...]:
        return self._catalogue.versions(model)

    def manifest(self, model: str, version: int) -> Manifest:
        return self._catalogue.manifest(model, version)

    def find(self, model: str, fingerprint: str) -> ModelVersion | None:
        return self._catalogue.find(model, fingerprint)

    def publish(
        self, staged: Path, manifest: Manifest, model: str, *, above: int = 0, progress: Progress | None = None
    ) -> Published:
        return self._publisher.publish(Path(staged), manifest, model, above=above, progress=progress)

    def read(self, model: str, version: int, path: str) -> bytes:
        return self._catalogue.read(model, version, path)

    def verify(self, model: str, version: int) -> None:
        self._catalogue.verify(model, version)

    def download(self, model: str, version: int, target: Path, *, progress: Progress | None = None) -> None:
        self._catalogue.download(model, version, Path(target), progress)

    def withdraw(self, model: str, version: int, reason: str) -> None:
        self._remover.withdraw(model, version, reason)

    def delete(self, model: str, version: int) -> None:
        self._remover.delete(model, version)


def _check_root(root: Path) -> None:
    # In this order: another process may create it between the two looks.
    if os.path.lexists(root):
        if not root.is_dir():
            raise StoreError(f"The store {str(root)!r} is not a directory.", "Name a directory.")
    elif not root.parent.is_dir():
        raise StoreError(
            f"Neither the store {str(root)!r} nor the directory that would hold it exists.",
            "Check the path for a typing error, or create that directory first.",
        )
