"""Connect to one address that was checked, by its number; the certificate is checked against the name."""

from __future__ import annotations

import socket
import ssl
from typing import Protocol

from tornado.iostream import IOStream, SSLIOStream

from tfs_deploy.gateway.fetching.resolving import Place


class Connect(Protocol):
    """How a connection comes about."""

    async def __call__(self, place: Place, *, tls: ssl.SSLContext | None, name: str, buffer: int) -> IOStream:
        """Return a stream to `place`, after the handshake where `tls` is given; raise OSError."""


async def connect(place: Place, *, tls: ssl.SSLContext | None, name: str, buffer: int) -> IOStream:
    """Connect for real; `name` is what the certificate must be for, `buffer` the most bytes held unread."""
    raw = socket.socket(place.family, socket.SOCK_STREAM)
    raw.setblocking(False)
    if tls is None:
        stream = IOStream(raw, max_buffer_size=buffer)
    else:
        stream = SSLIOStream(raw, max_buffer_size=buffer, ssl_options=tls)
    try:
        await stream.connect(place.sockaddr, server_hostname=name if tls else None)
    except BaseException:
        # Cancelled too: a stream that is registered with the loop does not end by itself.
        stream.close()
        raise
    return stream
