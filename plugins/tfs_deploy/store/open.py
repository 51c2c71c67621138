"""Open the store at a URI, as users write it after ``--store``."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.errors import InvalidInput, MissingExtra
from tfs_deploy.store.local.store import LocalStore
from tfs_deploy.store.object_store.connection import S3Options
from tfs_deploy.store.protocol import Store

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/")
_USAGE = "Give the path of a directory, file:///path, or s3://bucket/prefix."


def open_store(uri: str, *, clock: Clock | None = None, s3: S3Options | None = None) -> Store:
    """Return the store at `uri`: a directory (``~`` is the home directory), ``file:///path`` or ``s3://bucket/prefix``.

    Settings that `s3` leaves out come from boto3's own chain and the ``AWS_*`` variables.
    """
    if isinstance(uri, str) and uri.lower().startswith("s3:/"):
        return _in_s3(uri, s3, clock)
    return LocalStore(_directory(uri), clock=clock or SystemClock())


def _in_s3(uri: str, options: S3Options | None, clock: Clock | None) -> Store:
    try:
        from tfs_deploy.store.object_store.store import S3Store
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "s3") from error
    return S3Store(uri, options=options, clock=clock)


def _directory(uri: str) -> Path:
    if not isinstance(uri, str) or not uri.strip() or "\0" in uri:
        raise InvalidInput(f"The store {uri!r} is not usable.", _USAGE)
    if not _SCHEME.match(uri):
        return Path(uri).expanduser()
    parts = urlsplit(uri)
    # The part before an "@" may be a secret, so such an address is not quoted.
    shown = f"{parts.scheme}://..." if "@" in uri else uri
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path or parts.query or parts.fragment:
            raise InvalidInput(f"The store {shown!r} does not name a directory of this machine.", _USAGE)
        return Path(unquote(parts.path))
    raise InvalidInput(f"The store {shown!r} has the scheme {parts.scheme!r}, which is not supported.", _USAGE)
