"""Publish on a file system: copy into a partial directory, flush, claim a number, rename once."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from tfs_deploy.errors import CorruptModel, TFSDeployError
from tfs_deploy.jsonable import to_json
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, FileEntry, Manifest, hex_of
from tfs_deploy.store.local.catalogue import Catalogue
from tfs_deploy.store.local.filesystem import Filesystem, remove_tree, reporting, write_new_file
from tfs_deploy.store.local.layout import LocalLayout, partial_hex, publish_lock
from tfs_deploy.store.local.numbering import deleting_number
from tfs_deploy.store.protocol import ModelVersion, Progress, Published
from tfs_deploy.store.staged import StagedFiles, check_input, check_signatures, corrupt_existing

log = logging.getLogger(__name__)


class Publisher:
    """Publishes into one store.

    A publish holds the lock of its model and fingerprint from beginning to end. So two publishes of the same bytes give
    one version, and a partial directory whose lock is free is a leftover. The number is claimed last, under the lock of
    the model's names: versions appear in the order of their numbers, and a failed copy uses no number.
    """

    def __init__(self, layout: LocalLayout, catalogue: Catalogue, *, wait_seconds: float) -> None:
        self._layout = layout
        self._catalogue = catalogue
        self._wait_seconds = wait_seconds

    def publish(
        self, staged: Path, manifest: Manifest, model: str, *, above: int, progress: Progress | None
    ) -> Published:
        """Make `staged` a version of `model`; see `tfs_deploy.store.protocol.Store.publish`."""
        check_input(staged, manifest, model, above)
        files = StagedFiles(staged, manifest, progress)
        lock = publish_lock(model, hex_of(manifest.fingerprint))
        with self._layout.locks.hold(lock, seconds=self._wait_seconds):
            existing = self._catalogue.find(model, manifest.fingerprint)
            if existing is not None:
                files.check()
                self._check_existing(existing)
                return Published(existing, uploaded_bytes=0, created=False)
            self._sweep(model)
            version = self._publish_new(files, manifest, model, above)
        log.info("Published version %s of model %s: %s", version.version, model, version.uri)
        return Published(version, uploaded_bytes=manifest.total_bytes, created=True)

    def _publish_new(self, staged: StagedFiles, manifest: Manifest, model: str, above: int) -> ModelVersion:
        partial = self._layout.partial(model, manifest.fingerprint)
        base_is_new = not partial.parent.is_dir()
        try:
            self._open_partial(partial)
            self._fill(partial, staged, manifest)
            return self._name(partial, manifest, model, above)
        except BaseException:
            self._abandon(partial, model, base_is_new)
            raise

    def _open_partial(self, partial: Path) -> None:
        layout, base = self._layout, partial.parent
        with reporting("remove the leftover", partial):
            remove_tree(layout.files, partial)
        with layout.names_lock(base.name), layout.directory_cache.changing(base.name, base) as changes:
            with reporting("create", partial):
                layout.files.make_folders(base, layout.root)
                layout.files.make_folder(partial)
            changes.added(partial.name)

    def _fill(self, partial: Path, staged: StagedFiles, manifest: Manifest) -> None:
        files = self._layout.files
        copy_staged(staged, partial, files)
        check_signatures(partial, manifest)
        path = partial / MANIFEST_PATH
        with reporting("write", path):
            files.make_folders(path.parent, partial)
            write_new_file(files, path, to_json(manifest))
            files.sync_folder(path.parent)
            files.sync_folder(partial)

    def _name(self, partial: Path, manifest: Manifest, model: str, above: int) -> ModelVersion:
        layout, base = self._layout, partial.parent
        with layout.names_lock(model), layout.directory_cache.changing(model, base) as changes:
            highest = max(above, changes.directory.highest)
            number = layout.numbers.claim_next(model, base, above=highest, note=manifest.fingerprint)
            # Before the rename: after a crash the next publish finds a renamed version by its fingerprint.
            version = self._catalogue.remember(model, manifest.fingerprint, number)
            with reporting("rename the finished version to", base / str(number)):
                layout.files.rename(partial, base / str(number))
                layout.files.sync_folder(base)
            changes.used(number)
            changes.removed(partial.name)
        return version

    def _check_existing(self, existing: ModelVersion) -> None:
        manifest = self._catalogue.manifest(existing.model, existing.version)
        try:
            manifests.verify(Path(existing.uri), manifest, deep=False)
        except CorruptModel as error:
            raise corrupt_existing(existing, error) from error

    def _abandon(self, partial: Path, model: str, base_is_new: bool) -> None:
        layout = self._layout
        try:
            remove_tree(layout.files, partial)
            if base_is_new:
                # Not empty if another publish has begun in it.
                with layout.names_lock(model), contextlib.suppress(OSError):
                    layout.files.remove_folder(partial.parent)
        except (OSError, TFSDeployError) as error:
            log.warning("Left %s behind, the next publish removes it: %s", partial, error)

    def _sweep(self, model: str) -> None:
        """Remove the leftovers of dead publishes and deletions from the model's directory."""
        base = self._layout.base(model)
        for name in self._layout.directory_cache.listed(model, base).loose:
            try:
                if deleting_number(name) is not None:
                    remove_tree(self._layout.files, base / name)
                elif (digits := partial_hex(name)) is not None:
                    self._remove_if_dead(model, digits, base / name)
            except OSError as error:
                log.warning("Could not remove the leftover %s: %s", base / name, error)

    def _remove_if_dead(self, model: str, digits: str, partial: Path) -> None:
        with self._layout.locks.hold_if_free(publish_lock(model, digits)) as dead:
            if dead:
                log.info("Removing %s, whose publish died", partial)
                remove_tree(self._layout.files, partial)


def copy_staged(staged: StagedFiles, target: Path, files: Filesystem) -> None:
    """Write every staged file below the empty folder `target`, on the disk when this returns."""
    folders = sorted({parent for entry in staged.manifest.files for parent in Path(entry.path).parents})
    for folder in folders:  # sorted: a parent comes before its contents, and `.` is target itself
        if folder != Path():
            with reporting("create", target / folder):
                files.make_folder(target / folder)
    staged.for_each(lambda entry: _copy(staged, entry, target / entry.path, files))
    for folder in folders:
        with reporting("flush", target / folder):
            files.sync_folder(target / folder)


def _copy(staged: StagedFiles, entry: FileEntry, target: Path, files: Filesystem) -> None:
    with reporting("create", target):
        descriptor = files.create(target)
    try:
        for block in staged.blocks(entry):
            with reporting("write", target):
                files.write(descriptor, block)
            staged.advance(len(block))
        with reporting("flush", target):
            files.sync(descriptor)
    finally:
        os.close(descriptor)
