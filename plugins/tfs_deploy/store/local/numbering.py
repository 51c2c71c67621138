"""Version numbers on a file system: the used ones, and the claim of the next one."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tfs_deploy.errors import StoreError
from tfs_deploy.names import MAX_VERSION, served_number
from tfs_deploy.store.local.filesystem import Filesystem, reporting, write_new_file

_WITHDRAWN_NAME = re.compile(r"([0-9]+)\.withdrawn(?:-[0-9a-f]+)?", re.ASCII)
_DELETING_NAME = re.compile(r"\.deleting-([0-9]+)-[0-9a-f]+", re.ASCII)


def withdrawn_number(name: str) -> int | None:
    """Return the version number in the name of a withdrawn version's directory, None for another name."""
    match = _WITHDRAWN_NAME.fullmatch(name)
    return int(match.group(1)) if match else None


def deleting_number(name: str) -> int | None:
    """Return the version number in the name of a directory that is being deleted, None for another name."""
    match = _DELETING_NAME.fullmatch(name)
    return int(match.group(1)) if match else None


def names_in(folder: Path) -> list[str]:
    """Return the names in `folder`; empty if there is no such folder."""
    with reporting("list", folder):
        try:
            return os.listdir(folder)
        except FileNotFoundError:
            return []


class Numbers:
    """Claims of version numbers: one file each, created exclusively, never removed."""

    def __init__(self, folder: Path, *, root: Path, files: Filesystem) -> None:
        self._folder = folder
        self._root = root
        self._files = files

    def claimed(self, model: str) -> set[int]:
        """Return the numbers ever claimed for `model`."""
        return {number for name in names_in(self._folder / model) if (number := served_number(name)) is not None}

    def claim(self, model: str, version: int, *, note: str) -> bool:
        """Mark `version` as used, and return whether it was not before; `note` goes into the claim."""
        folder = self._folder / model
        with reporting("claim a version number in", folder):
            self._files.make_folders(folder, self._root)
            try:
                write_new_file(self._files, folder / str(version), note.encode())
            except FileExistsError:
                return False
            self._files.sync_folder(folder)
            return True

    def claim_next(self, model: str, base: Path, *, above: int, note: str) -> int:
        """Claim the first free number above `above` that `base` does not show either; `note` goes into the claim."""
        highest = max(above, 0)
        while highest < MAX_VERSION:
            highest += 1
            if self.claim(model, highest, note=note) and not os.path.lexists(base / str(highest)):
                return highest
        raise StoreError(
            f"The version numbers of model {model!r} are used up: {MAX_VERSION} is taken.",
            f"Publish under another model name, or move what uses that number out of {str(base)!r}.",
        )
