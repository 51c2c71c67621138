"""What lies where in a store in S3: the same names as on disk.

``<prefix>/<model>/<version>/`` holds a version; it is complete when its manifest is there, and the manifest is written
last and removed first. ``<prefix>/.tfs_deploy/`` holds the documents, and among them ours:

- ``claims/<model>/<version>``: the number is used; created exclusively, never removed
- ``numbering/<model>``: a hint at the highest number
- ``fingerprints/<model>/<hex>``: the version that was last given to these bytes
- ``attempts/<model>/<hex>``: a publish of these bytes that goes on, or that died, with its number
- ``tips/<model>``: changes whenever a version appears or goes
- ``withdrawn/<model>/<version>``: why a version was withdrawn
- ``.probe/<digest>``: conditional writes were tried here and work
"""

from __future__ import annotations

from tfs_deploy.savedmodel.manifest import MANIFEST_PATH

STATE_FOLDER = ".tfs_deploy"
# Beside the files, so that it goes with them; nobody takes it for a manifest.
WITHDRAWN_MANIFEST_PATH = f"{MANIFEST_PATH}.withdrawn"
# An object's SHA-256 in hex, in its metadata.
DIGEST_METADATA = "sha256"


def state(key: str) -> str:
    """Return the object's name for a document's key."""
    return f"{STATE_FOLDER}/{key}"


def folder(model: str, version: int | str) -> str:
    """Return the beginning of the names of all objects of a version."""
    return f"{model}/{version}/"


def manifest_name(model: str, version: int) -> str:
    """Return the name of the commit marker."""
    return folder(model, version) + MANIFEST_PATH
