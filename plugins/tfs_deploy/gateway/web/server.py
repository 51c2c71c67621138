"""The port: Tornado's HTTP server with a bound on connections, and TLS."""

from __future__ import annotations

import contextlib
import logging
import ssl
from typing import Any, cast

from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPMessageDelegate, HTTPServerConnectionDelegate
from tornado.iostream import IOStream
from tornado.netutil import bind_sockets

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.config import Listen, ListenTLS
from tfs_deploy.gateway.web.incoming import Incoming, Judge

logger = logging.getLogger(__name__)

# Longer than the idle time of the usual load balancers (60 s), so that it is they who close a connection.
_IDLE_SECONDS = 75.0
_HEADER_BYTES = 32 << 10
_CHUNK_BYTES = 64 << 10
# Bodies are counted by `Incoming`, which answers; Tornado would only hang up.
_NO_LIMIT = 1 << 62


class Port:
    """Listens from `open` to `close`."""

    def __init__(self, listen: Listen, judge: Judge, *, connections: int) -> None:
        self._listen = listen
        self._tls = None if listen.tls is None else tls_context(listen.tls)
        self._server = _Server(
            _Requests(judge),
            ssl_options=self._tls,
            idle_connection_timeout=_IDLE_SECONDS,
            max_header_size=_HEADER_BYTES,
            chunk_size=_CHUNK_BYTES,
            max_body_size=_NO_LIMIT,
        )
        self._server.most = connections
        self.url = ""

    @property
    def connections(self) -> int:
        """Return how many connections there are, idle ones included."""
        return len(self._server._connections)

    def open(self) -> None:
        """Begin to listen; raise InvalidInput for an address that cannot be had."""
        listen = self._listen
        try:
            sockets = bind_sockets(listen.port, listen.address, backlog=1024)
        except (OSError, UnicodeError) as error:
            told = getattr(error, "strerror", None) or error
            raise InvalidInput(
                f"The address {listen.address}:{listen.port} cannot be listened on: {told}.",
                "Correct `listen`, or end what has the port.",
            ) from error
        self._server.add_sockets(sockets)
        host = f"[{listen.address}]" if ":" in listen.address else listen.address
        self.url = f"{'https' if self._tls else 'http'}://{host}:{sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        """Take no new connections."""
        self._server.stop()

    async def close(self) -> None:
        """Close the connections that are left."""
        await self._server.close_all_connections()


class _Server(HTTPServer):
    most = 1

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if len(self._connections) >= self.most:
            stream.close()
            return
        # Small answers go out at once.
        with contextlib.suppress(OSError):
            stream.set_nodelay(True)
        super().handle_stream(stream, address)


class _Requests(HTTPServerConnectionDelegate):
    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        connection = cast("HTTP1Connection", request_conn)
        remote = str(getattr(connection.context, "remote_ip", "") or "")
        return Incoming(self._judge, connection, remote)


def tls_context(tls: ListenTLS) -> ssl.SSLContext:
    """Return what TLS is spoken with; raise InvalidInput for files that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a passphrase here, OpenSSL asks for one on the terminal, and waits.
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"The certificate {tls.certificate} and the key {tls.key} cannot be used: {error.strerror or error}.",
            "Give a PEM certificate chain and its key without a passphrase.",
        ) from error
    return context
