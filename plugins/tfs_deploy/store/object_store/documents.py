"""State documents as objects, written with ``If-Match``; a document's tag is the ETag of its object.

The ETag of most servers is the MD5 of the bytes. `document_format` adds a number to every write, so that two writes of
the same body have two ETags.
"""

from __future__ import annotations

from typing import TypeVar

from tfs_deploy.errors import Contention, InvalidInput
from tfs_deploy.jsonable import from_json
from tfs_deploy.store.document_format import OVERHEAD_BYTES, decode, encode
from tfs_deploy.store.documents import check_folder, check_key, check_prefix
from tfs_deploy.store.object_store.address import state
from tfs_deploy.store.object_store.conditional_write_check import ConditionalWriteCheck
from tfs_deploy.store.object_store.errors import PreconditionFailed
from tfs_deploy.store.object_store.objects import Objects
from tfs_deploy.store.protocol import MAX_DOCUMENT_BYTES, Document

T = TypeVar("T")

_LIMIT = MAX_DOCUMENT_BYTES + OVERHEAD_BYTES


class S3StateDocuments:
    """One object per document."""

    def __init__(self, objects: Objects, conditional_writes: ConditionalWriteCheck) -> None:
        self._objects = objects
        self._conditional_writes = conditional_writes

    def read(self, key: str) -> Document | None:
        stored = self._objects.get(state(check_key(key)), limit=_LIMIT)
        return None if stored is None else Document(decode(stored.body).body, stored.etag)

    def read_as(self, kind: type[T], key: str) -> tuple[T, str] | None:
        """Return a document's value and its tag, or None."""
        stored = self.read(key)
        return None if stored is None else (from_json(kind, stored.body), stored.tag)

    def read_with_age(self, key: str) -> tuple[Document, float] | None:
        """Return a document and the seconds since it was written, by the server's clock; or None."""
        stored = self._objects.get(state(check_key(key)), limit=_LIMIT)
        return None if stored is None else (Document(decode(stored.body).body, stored.etag), stored.age_seconds)

    def write(self, key: str, body: bytes, *, expected: str | None) -> str:
        name = state(check_key(key))
        if len(body) > MAX_DOCUMENT_BYTES:
            raise InvalidInput(
                f"The state document {key!r} would have {len(body)} bytes.", f"Keep it below {MAX_DOCUMENT_BYTES}."
            )
        self._conditional_writes.check()
        data, _ = encode(body)
        try:
            if expected is None:
                return self._objects.create(name, data)
            return self._objects.replace(name, data, etag=expected)
        except PreconditionFailed:
            if expected is None:
                cause = f"The state document {key!r} exists already."
            else:
                cause = f"The state document {key!r} was changed or removed by another process meanwhile."
            raise Contention(cause, "Run the same step again: it reads the document again.") from None

    def list(self, prefix: str) -> tuple[str, ...]:
        start = state(check_prefix(prefix))
        cut = len(state(""))
        keys = (stored.name[cut:] for stored in self._objects.list(start))
        return tuple(sorted(key for key in keys if _is_key(key)))

    def folders(self, prefix: str) -> tuple[str, ...]:
        names = self._objects.folders(state(check_folder(prefix)))
        return tuple(sorted(name for name in names if _is_key(f"{prefix}{name}")))

    def delete(self, key: str) -> None:
        self._objects.delete(state(check_key(key)))


def _is_key(key: str) -> bool:
    try:
        check_key(key)
    except InvalidInput:
        return False  # the note of the conditional write check, or of another tool
    return True
