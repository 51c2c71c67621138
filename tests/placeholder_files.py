"""Write the placeholder version as the package holds it, without a store or an agent."""

from __future__ import annotations

from pathlib import Path

from tfs_deploy.savedmodel import placeholder


def write_placeholder(directory: Path) -> Path:
    """Write the placeholder's files below `directory`, beside which they are gathered first, and return it."""
    staged = directory.with_name(f"staged-{directory.name}")
    for path, data in placeholder.files().items():
        (staged / path).parent.mkdir(parents=True, exist_ok=True)
        (staged / path).write_bytes(data)
    return staged.rename(directory)
