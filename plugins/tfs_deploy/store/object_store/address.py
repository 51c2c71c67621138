"""Where a store in S3 lies, and what lies where in it: the same names as on disk.

``<prefix>/<model>/<version>/`` holds a version; it is complete when its manifest is there, and the manifest is written
last and removed first. ``<prefix>/.tfs_deploy/`` holds the documents of the deployment and those of the store:

- ``claims/<model>/<version>``: the number is used; created exclusively, never removed
- ``numbering/<model>``: a hint at the highest number
- ``fingerprints/<model>/<hex>``: the version that was last given to these bytes
- ``attempts/<model>/<hex>``: the lease and the number of a publish of these bytes that runs or was interrupted
- ``tips/<model>``: changes whenever a version appears or goes
- ``withdrawn/<model>/<version>``: why a version was withdrawn
- ``.probe/<digest>``: the server honours conditional writes
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from tfs_deploy.errors import InvalidInput
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH
from tfs_deploy.store.documents import check_prefix

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{1,253}[A-Za-z0-9]")
_USAGE = "Give s3://bucket or s3://bucket/prefix."
# With the longest model name, version, path and document key, 1024 bytes for an object's name are enough.
_MAX_PREFIX_BYTES = 200


@dataclass(frozen=True, slots=True)
class S3Address:
    """A bucket and the prefix in it, without slashes around it; ``""`` is the whole bucket."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, uri: str) -> S3Address:
        """Return the parts of ``s3://bucket/prefix``; raise InvalidInput for anything else."""
        rest = uri[len("s3://") :] if uri.startswith("s3://") else ""
        bucket, _, prefix = rest.partition("/")
        # Also if a slash is missing, or part of the secret.
        authority = uri.partition(":")[2].lstrip("/").partition("/")[0]
        if "@" in authority or ":" in authority or "?" in uri or "#" in uri:
            # Not quoted, since it may hold a secret.
            raise InvalidInput(
                "The store's s3:// address holds more than a bucket and a prefix.",
                "Give credentials and endpoint by the environment, a profile or a connection.",
            )
        if not bucket:
            raise InvalidInput(f"The store {uri!r} names no bucket.", _USAGE)
        if not _BUCKET.fullmatch(bucket):
            raise InvalidInput(
                f"The bucket name {bucket!r} is not usable.", "Use 3 to 63 letters, digits, '-' and '.' (S3's rule)."
            )
        prefix = prefix.rstrip("/")
        _check_prefix(uri, prefix)
        return cls(bucket, prefix)

    @property
    def uri(self) -> str:
        """Return the address as a user writes it."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def key(self, name: str) -> str:
        """Return the object's name in the bucket for a name in the store."""
        return f"{self.prefix}/{name}" if self.prefix else name


def _check_prefix(uri: str, prefix: str) -> None:
    if len(prefix.encode()) > _MAX_PREFIX_BYTES:
        raise InvalidInput(f"The prefix in {uri[:80]!r}... is longer than {_MAX_PREFIX_BYTES} bytes.", "Shorten it.")
    try:
        check_prefix(f"{prefix}/" if prefix else "")
        urlsplit(uri)
    except (InvalidInput, ValueError) as error:
        raise InvalidInput(
            f"The prefix in {uri!r} is not usable: its segments must not be empty or start with '.'.", _USAGE
        ) from error


STATE_FOLDER = ".tfs_deploy"
# Beside the files, so that it is deleted with them; no reader takes it for a manifest.
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
