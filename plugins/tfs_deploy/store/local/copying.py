"""Copy a staged directory into a store on a file system."""

from __future__ import annotations

import os
from pathlib import Path

from tfs_deploy.savedmodel.manifest import FileEntry
from tfs_deploy.store.local.filesystem import Filesystem, reporting
from tfs_deploy.store.staged import StagedFiles


def copy_staged(staged: StagedFiles, target: Path, files: Filesystem) -> None:
    """Write every staged file below the empty folder `target`, on the disk when this returns."""
    folders = sorted({parent for entry in staged.manifest.files for parent in Path(entry.path).parents})
    for folder in folders:  # sorted: a parent comes before what is in it, and `.` is target itself
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
