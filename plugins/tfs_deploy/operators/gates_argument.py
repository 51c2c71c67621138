"""Gates as an operator is given them: a file, a dict with rendered templates in it, or nothing."""

from __future__ import annotations

from typing import Any

from tfs_deploy.validation.config import Gates, gates_from, read_gates


def gates_of(given: Any) -> Gates:
    """Return gates from a path, a dict that may hold rendered templates ("0.9"), or nothing."""
    if given is None or given == "":
        return Gates()
    if isinstance(given, str):
        return read_gates(given)
    return gates_from(given, strict=False)
