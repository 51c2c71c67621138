"""The placeholder below a directory that a model server watches: it appears and disappears by one rename each.

While it is written or removed, its directory is ``.placeholder-<random>``. The caller excludes other writers, so every
such directory that it finds is a leftover.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from uuid import uuid4

from tfs_deploy.errors import Refused
from tfs_deploy.names import PLACEHOLDER
from tfs_deploy.savedmodel import placeholder
from tfs_deploy.savedmodel.placeholder import is_placeholder
from tfs_deploy.store.local.filesystem import Filesystem, remove_tree, write_new_file

_HIDDEN = re.compile(r"\.placeholder-[0-9a-f]+", re.ASCII)


def put(files: Filesystem, base: Path) -> None:
    """Make the placeholder visible below `base`, which exists; raise Refused if its number is taken, or OSError."""
    _remove_leftovers(files, base)
    target = base / str(PLACEHOLDER)
    if is_placeholder(target):
        return
    if os.path.lexists(target):
        raise Refused(
            f"{str(target)!r} is in the place of the placeholder, which model servers need while the first version of "
            f"model {base.name!r} loads.",
            "Version numbers start at 1: remove that directory by hand while no server serves it.",
        )
    stage = _hidden(base)
    files.make_folder(stage)
    for path, data in placeholder.files().items():
        files.make_folders((stage / path).parent, stage)
        write_new_file(files, stage / path, data)
        files.sync_folder((stage / path).parent)
    files.rename(stage, target)
    files.sync_folder(base)


def remove(files: Filesystem, base: Path) -> None:
    """Take the placeholder below `base` out of sight and remove it, if it is there; raise OSError."""
    target = base / str(PLACEHOLDER)
    if is_placeholder(target):
        files.rename(target, _hidden(base))
        files.sync_folder(base)
    _remove_leftovers(files, base)


def is_leftover(name: str) -> bool:
    """Tell whether a directory of that name was left by an interrupted `put` or `remove`."""
    return _HIDDEN.fullmatch(name) is not None


def _remove_leftovers(files: Filesystem, base: Path) -> None:
    for name in os.listdir(base) if base.is_dir() else ():
        if is_leftover(name):
            remove_tree(files, base / name)


def _hidden(base: Path) -> Path:
    return base / f".placeholder-{uuid4().hex[:8]}"
