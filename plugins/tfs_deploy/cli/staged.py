"""A staged SavedModel directory, looked at before anything is changed."""

from __future__ import annotations

from pathlib import Path

from tfs_deploy.errors import InvalidInput
from tfs_deploy.savedmodel.files import is_directory
from tfs_deploy.savedmodel.inspection import check_saved_model
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH


def size(directory: Path) -> int:
    """Return the bytes that a publish of `directory` moves; 0 where nothing can be read."""
    manifest = directory / MANIFEST_PATH
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file() and path != manifest)


def check(directory: Path) -> int:
    """Raise what is wrong with a SavedModel that is about to be published; return its size in bytes.

    A version number is used up by a version that cannot predict, and a server would call it AVAILABLE.
    """
    if not is_directory(directory):
        raise InvalidInput(f"There is no directory {directory}.", "Give the directory of an exported SavedModel.")
    check_saved_model(directory)
    return size(directory)
