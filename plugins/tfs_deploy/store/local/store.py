"""The store in a directory."""

from __future__ import annotations

import os
from pathlib import Path

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.errors import StoreError
from tfs_deploy.store.assembled import AssembledStore
from tfs_deploy.store.local.catalogue import Catalogue
from tfs_deploy.store.local.filesystem import Filesystem
from tfs_deploy.store.local.layout import LocalLayout
from tfs_deploy.store.local.publishing import Publisher
from tfs_deploy.store.local.removal import Remover


class LocalStore(AssembledStore):
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
        catalogue = Catalogue(layout)
        super().__init__(
            str(layout.root),
            layout.documents,
            holdings=catalogue,
            intake=Publisher(layout, catalogue, wait_seconds=publish_wait_seconds),
            removal=Remover(layout),
        )


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
