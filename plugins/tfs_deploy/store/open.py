"""From what a user writes as ``--store`` to a store."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.errors import InvalidInput, Permanent
from tfs_deploy.store.local.store import LocalStore
from tfs_deploy.store.protocol import Store

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/")
_USAGE = "Give the path of a directory, or file:///path."


def open_store(uri: str, *, clock: Clock | None = None) -> Store:
    """Return the store at `uri`: the path of a directory (``~`` is the home directory) or ``file:///path``."""
    return LocalStore(_directory(uri), clock=clock or SystemClock())


def _directory(uri: str) -> Path:
    if not isinstance(uri, str) or not uri.strip() or "\0" in uri:
        raise InvalidInput(f"The store {uri!r} is not usable.", _USAGE)
    if not _SCHEME.match(uri):
        return Path(uri).expanduser()
    parts = urlsplit(uri)
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path or parts.query or parts.fragment:
            raise InvalidInput(f"The store {uri!r} does not name a directory of this machine.", _USAGE)
        return Path(unquote(parts.path))
    if parts.scheme == "s3":
        raise Permanent(
            f"The store {uri!r} is in S3, and this version of tfs_deploy stores in directories only.", _USAGE
        )
    raise InvalidInput(f"The store {uri!r} has the scheme {parts.scheme!r}, which is not supported.", _USAGE)
