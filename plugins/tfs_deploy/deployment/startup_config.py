"""The start-up config file: what a replica serves when it restarts, before its first reload."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tfs_deploy.deployment.desired_state import DesiredState
from tfs_deploy.errors import StoreError
from tfs_deploy.serving.config import ModelEntry, to_text
from tfs_deploy.serving.group import ServingGroup


def write_startup_config(group: ServingGroup, state: DesiredState) -> None:
    """Replace the group's start-up file atomically; do nothing for a group that has none."""
    path = group.startup_config
    if path is not None:
        _replace(Path(path), startup_text(state))


def startup_text(state: DesiredState) -> str:
    """Return the text of the start-up file of a group in `state`.

    It holds only versions that a label names. A server that starts waits until the first version of each model is
    loaded or failed, and a version without validation must not keep it from starting (contract 1 and 15).
    """
    text = to_text(entry for entry in map(_labelled_only, state.entries()) if entry.versions)
    # An empty file is refused by TF Serving, an empty list is not (contract 5.2).
    return text or "model_config_list {\n}\n"


def _labelled_only(entry: ModelEntry) -> ModelEntry:
    labelled = tuple(sorted(set(entry.labels.values())))
    return ModelEntry(entry.name, entry.base_path, labelled, entry.labels)


def _replace(path: Path, text: str) -> None:
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise StoreError(
            f"The start-up config file {path} cannot be written: {error.strerror}.",
            "The replicas serve the new state, but one that restarts comes up with the old one; "
            "make the file writable and run the step again.",
        ) from error
