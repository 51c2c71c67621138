"""The bytes of a stored state document: its body, and a number that is new with every write.

The number makes two writes of the same bytes two states. Without it a writer could not tell an unchanged document from
one that was changed and changed back, which matters for a lease. The tag also covers the body, so that an edit by hand
counts as a change.

- A JSON object, which is what every step writes, stays one: the number is its first member, ``_tfs_deploy_write``.
- Any other body (a capture file of the gateway) follows a header line with the number. Documents of both kinds had this
  form before; they are read, and a JSON object gets the new form by its next write.
- Bytes of neither form, put there by hand, are the body itself.
"""

from __future__ import annotations

import hashlib
import re
from uuid import uuid4

import msgspec

from tfs_deploy.store.protocol import Document

_MEMBER = re.compile(rb'\{\s*"_tfs_deploy_write"\s*:\s*"([0-9a-f]{32})"(?:\s*,)?')
_HEADER = re.compile(rb"tfs-deploy-document 1 ([0-9a-f]{32})\n")
_EMPTY_OBJECT = re.compile(rb"\{\s*\}")
# Bytes that a write adds at most.
OVERHEAD_BYTES = len(b"tfs-deploy-document 1 \n") + 32


def encode(body: bytes) -> tuple[bytes, str]:
    """Return the bytes to store for `body`, and the tag of this write."""
    nonce = uuid4().hex.encode()
    if not _is_json_object(body):
        return b"tfs-deploy-document 1 %b\n%b" % (nonce, body), _tag(nonce, body)
    comma = b"" if _EMPTY_OBJECT.match(body) else b","
    return b'{"_tfs_deploy_write":"%b"%b%b' % (nonce, comma, body[1:]), _tag(nonce, body)


def decode(data: bytes) -> Document:
    """Return the document whose stored bytes are `data`."""
    if member := _MEMBER.match(data):
        body = b"{" + data[member.end() :]
        return Document(body, _tag(member.group(1), body))
    if header := _HEADER.match(data):
        body = data[header.end() :]
        return Document(body, _tag(header.group(1), body))
    return Document(data, _tag(b"bare", data))


def _is_json_object(body: bytes) -> bool:
    if not body.startswith(b"{"):
        return False
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _tag(nonce: bytes, body: bytes) -> str:
    return f"{nonce.decode()}-{hashlib.sha256(body).hexdigest()[:32]}"
