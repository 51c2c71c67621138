"""What the crash tests of all stores check in common, and the server that watches them."""

from __future__ import annotations

from pathlib import Path

from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.store.protocol import Store

# The version that nobody may miss while another one is withdrawn or deleted.
STABLE = {"publish": None, "withdraw": {"m": (2,)}, "delete": {"m": (2,)}, "write": None}


def check_ended(store: Store, name: str, staged: tuple[Path, Manifest]) -> tuple[int, ...]:
    """Check that the operation came to its end, and return the versions that are there."""
    there = store.versions("m")
    if name == "publish":
        assert len(there) == 1
        found = store.find("m", staged[1].fingerprint)
        assert found is not None
        assert found.version == there[0]
    elif name == "write":
        document = store.documents.read("groups/g/desired.json")
        assert document is not None
        assert document.body == b"new"
    else:
        assert there == (2,)
    return there


def put_document(store: Store, body: bytes) -> None:
    """Set one document, whatever it holds."""
    found = store.documents.read("groups/g/desired.json")
    if found is None or found.body != body:
        store.documents.write("groups/g/desired.json", body, expected=found.tag if found else None)
