"""The names of a model's classes, from the configuration or from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tfs_deploy.errors import InvalidInput


def read_labels(labels: Sequence[str], labels_file: str) -> tuple[str, ...]:
    """Return `labels`, or those in the UTF-8 `labels_file`, one per line, in the order of the classes."""
    if not labels_file:
        return tuple(labels)
    if labels:
        raise InvalidInput("Both labels and labels_file are given.", "Keep one of them.")
    try:
        text = Path(labels_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The labels_file {labels_file} cannot be read: {error}.", "Check the path.") from error
    return tuple(line.strip() for line in text.removesuffix("\n").split("\n"))
