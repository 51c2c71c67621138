"""A staged SavedModel directory, looked at before anything is changed."""

from __future__ import annotations

from pathlib import Path

from tfs_deploy.errors import InvalidInput, NotFound
from tfs_deploy.savedmodel.files import list_files
from tfs_deploy.savedmodel.inspection import check_saved_model
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, FileEntry, Manifest
from tfs_deploy.savedmodel.requests import GOLDEN_PATH
from tfs_deploy.serving.signature import signatures_of_saved_model
from tfs_deploy.validation.gates import Gates
from tfs_deploy.validation.run import gather


def size(directory: Path) -> int:
    """Return the bytes that a publish of `directory` moves; 0 where nothing can be read."""
    manifest = directory / MANIFEST_PATH
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file() and path != manifest)


def check(directory: Path) -> int:
    """Raise what is wrong with a SavedModel that is about to be published; return its size in bytes.

    A version number is used up by a version that cannot predict, and a server would call it AVAILABLE.
    """
    if not directory.is_dir():
        raise InvalidInput(f"There is no directory {directory}.", "Give the directory of an exported SavedModel.")
    check_saved_model(directory)
    return size(directory)


def check_gates(directory: Path, gates: Gates) -> None:
    """Raise InvalidInput or CorruptModel if the gates' files do not fit the model.

    Publishing comes before validation, so what can be known beforehand is told before a byte is written.
    """
    signatures = signatures_of_saved_model(directory)
    golden = tuple(FileEntry(path, 0, "") for path in list_files(directory) if path == GOLDEN_PATH)
    outline = Manifest("", golden, signatures, "", {}, "")

    def read_file(path: str) -> bytes:
        try:
            return (directory / path).read_bytes()
        except OSError as error:
            raise NotFound(f"{directory} holds no readable {path}.", "Export the model again.") from error

    gather(outline, gates, read_file)
