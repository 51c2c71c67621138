"""How a state document lies in a store: one header line that is new with every write, then the body as it is.

The header makes two writes of the same bytes two states. Without it a writer could not tell "nobody was here"
from "somebody changed it and changed it back", which matters for a lease. The tag also covers the body, so that a
document edited by hand counts as changed. A file without the header, put there by hand, is read as a bare body.
"""

from __future__ import annotations

import hashlib
import re
from uuid import uuid4

from tfs_deploy.store.protocol import Document

_HEADER = re.compile(rb"tfs-deploy-document 1 ([0-9a-f]{32})\n")
# Bytes that the header adds.
OVERHEAD_BYTES = len(b"tfs-deploy-document 1 ") + 32 + 1


def encode(body: bytes) -> tuple[bytes, str]:
    """Return the bytes to store for `body`, and the tag of this write."""
    nonce = uuid4().hex.encode()
    return b"tfs-deploy-document 1 %b\n%b" % (nonce, body), _tag(nonce, body)


def decode(data: bytes) -> Document:
    """Return the document that lies in the store as `data`."""
    header = _HEADER.match(data)
    if header is None:
        return Document(data, _tag(b"bare", data))
    body = data[header.end() :]
    return Document(body, _tag(header.group(1), body))


def _tag(nonce: bytes, body: bytes) -> str:
    return f"{nonce.decode()}-{hashlib.sha256(body).hexdigest()[:32]}"
