"""The placeholder: a version that loads at once and answers every request with an error that says why.

A reload that names a new model waits for its first version under the lock that every other reload needs (contract
20.14). With the placeholder as the first version of the name, that wait takes milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

# In nearly every error: the graph asserts it, and the alias of its only input spells it.
MESSAGE = "the first version of this model is loading"
# Marks a version directory as the placeholder, also one that another release of this package wrote.
MARKER_PATH = "assets.extra/tfs_deploy_placeholder.txt"
_NOTE = (
    "tfs_deploy serves this version while the first real one loads, and removes it afterwards.\n"
    "It answers every request with an error.\n"
)


def files() -> Mapping[str, bytes]:
    """Return the files of the version by relative path, the one that servers load last."""
    # Written by tests/savedmodel/generate_placeholder.py.
    graph = resources.files("tfs_deploy.savedmodel").joinpath("placeholder.binpb").read_bytes()
    return {MARKER_PATH: _NOTE.encode(), "saved_model.pb": graph}


def is_placeholder(directory: Path) -> bool:
    """Tell whether a version directory holds the placeholder; links do not count."""
    return not os.path.islink(directory) and os.path.isfile(directory / MARKER_PATH)
