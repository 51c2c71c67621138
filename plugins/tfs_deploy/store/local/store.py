"""The store in a directory."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from uuid import uuid4

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.errors import NotFound, Refused, StoreError
from tfs_deploy.names import check_model_name, check_version, served_number
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, Manifest
from tfs_deploy.store.documents import write_withdrawal
from tfs_deploy.store.local import placeholder
from tfs_deploy.store.local.catalogue import Catalogue
from tfs_deploy.store.local.filesystem import Filesystem, remove_below, remove_tree, reporting
from tfs_deploy.store.local.layout import LocalLayout
from tfs_deploy.store.local.numbering import deleting_number, names_in, withdrawn_number
from tfs_deploy.store.local.publishing import Publisher
from tfs_deploy.store.protocol import Progress, Published, StateDocuments

log = logging.getLogger(__name__)


class LocalStore(Catalogue):
    """Versions in ``<root>/<model>/<version>/``; see `tfs_deploy.store.local.layout`.

    The last segment of `root` may be missing and is created by the first write; its parent must be there, so that a
    mistyped path is an error and not a new store. A mount must have ``flock``, exclusive create and an atomic rename,
    but no hard links. A withdrawal and a deletion begin with a rename, so that a model server sees a version whole or
    not at all.
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
        super().__init__(LocalLayout.at(path, files=files or Filesystem(), clock=clock or SystemClock()))
        self._publisher = Publisher(self._layout, self, wait_seconds=publish_wait_seconds)

    @property
    def uri(self) -> str:
        return str(self._layout.root)

    @property
    def directory(self) -> Path | None:
        return self._layout.root

    @property
    def requires_sync_agent(self) -> bool:
        return False

    @property
    def documents(self) -> StateDocuments:
        return self._layout.documents

    def publish(
        self, staged: Path, manifest: Manifest, model: str, *, above: int = 0, progress: Progress | None = None
    ) -> Published:
        return self._publisher.publish(Path(staged), manifest, model, above=above, progress=progress)

    def withdraw(self, model: str, version: int, reason: str) -> None:
        """Rename every directory that a model server would serve as `version`, and note the reason."""
        base = self._layout.base(check_model_name(model))
        check_version(version)
        with self._layout.names_lock(model), self._layout.directory_cache.changing(model, base) as changes:
            served = [name for name in names_in(base) if served_number(name) == version]
            if not served:
                self._check_known(model, version)
            for name in served:
                target = base / f"{version}.withdrawn"
                if target.exists():
                    target = base / f"{version}.withdrawn-{uuid4().hex[:8]}"
                self._rename(base / name, target)
                log.info("Withdrew version %s of model %s: %s", version, model, reason)
            # After the rename, which needs no space on the disk.
            self._layout.numbers.claim(model, version, note="withdrawn")
            changes.used(version)
        write_withdrawal(self._layout.documents, model, version, reason, self._layout.clock)

    def delete(self, model: str, version: int) -> None:
        """Rename the version's directories to names that no reader uses, then remove them."""
        base = self._layout.base(check_model_name(model))
        check_version(version)
        with self._layout.names_lock(model), self._layout.directory_cache.changing(model, base) as changes:
            present = [name for name in names_in(base) if version in {served_number(name), withdrawn_number(name)}]
            if not present:
                self._check_known(model, version)
            for name in present:
                self._check_owned(base / name, model, version)
            self._layout.numbers.claim(model, version, note="deleted")
            changes.used(version)
            for name in present:
                deleted = f".deleting-{version}-{uuid4().hex[:8]}"
                self._rename(base / name, base / deleted)
                changes.added(deleted)
                log.info("Deleting version %s of model %s", version, model)
        for name in names_in(base):
            if deleting_number(name) == version:
                self._remove(model, base / name)

    def put_placeholder(self, model: str) -> None:
        base = self._layout.base(check_model_name(model))
        with self._layout.names_lock(model):
            if not base.is_dir():
                raise NotFound(f"Model {model!r} has no directory in {str(self._layout.root)!r}.", "Publish it first.")
            with self._layout.directory_cache.changing(model, base), reporting("put the placeholder below", base):
                placeholder.put(self._layout.files, base)

    def remove_placeholder(self, model: str) -> None:
        base = self._layout.base(check_model_name(model))
        if not base.is_dir():
            return
        changing = self._layout.directory_cache.changing(model, base)
        with self._layout.names_lock(model), changing, reporting("remove the placeholder below", base):
            placeholder.remove(self._layout.files, base)

    def _remove(self, model: str, deleted: Path) -> None:
        with reporting("remove", deleted):
            remove_below(self._layout.files, deleted)
        with self._layout.names_lock(model), self._layout.directory_cache.changing(model, deleted.parent) as changes:
            with reporting("remove", deleted):
                remove_tree(self._layout.files, deleted)
            changes.removed(deleted.name)

    def _rename(self, source: Path, target: Path) -> None:
        with reporting("rename", source):
            self._layout.files.rename(source, target)
            self._layout.files.sync_folder(source.parent)

    def _check_known(self, model: str, version: int) -> None:
        known = self._layout.numbers.claimed(model)
        known |= {number for name in names_in(self._layout.base(model)) if (number := withdrawn_number(name))}
        if version not in known:
            raise NotFound(
                f"Model {model!r} has no version {version} in {str(self._layout.root)!r}.", "Check the number."
            )

    def _check_owned(self, directory: Path, model: str, version: int) -> None:
        if not (directory / MANIFEST_PATH).is_file():
            raise Refused(
                f"Version {version} of model {model!r} was not published by tfs_deploy: {str(directory)!r} "
                "has no manifest.",
                "Remove it by hand if it is not needed.",
            )


def _check_root(root: Path) -> None:
    # In this order: another process may create it between the two checks.
    if os.path.lexists(root):
        if not root.is_dir():
            raise StoreError(f"The store {str(root)!r} is not a directory.", "Name a directory.")
    elif not root.parent.is_dir():
        raise StoreError(
            f"Neither the store {str(root)!r} nor the directory that would hold it exists.",
            "Check the path for a typing error, or create that directory first.",
        )
