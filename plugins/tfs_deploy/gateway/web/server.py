"""The HTTP port, and one request on it: its headers are checked before its body is read, and its body is counted.

Built on Tornado's HTTP server below `tornado.web`, so that refused requests get replies of the same form as others.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, cast

from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import bind_sockets

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.config import Listen, ListenTLS
from tfs_deploy.gateway.problem import Problem
from tfs_deploy.gateway.web.app import Application, Match
from tfs_deploy.gateway.web.message import Permit, Reply, Request, problem_reply

# A refused client may still be sending: this much is read and dropped, so that it gets the reply and no broken pipe.
_DISCARD_BYTES = 16 << 20
_DISCARD_SECONDS = 5.0
_WRITE_SECONDS = 30.0
# Raw bytes in a request line are not ASCII; a proxy would have escaped them.
_PATH = re.compile(r"/[!-~]*")
# What Tornado sends for a message that it cannot parse, before it closes the connection.
_MALFORMED = b"HTTP/1.1 400 Bad Request\r\n\r\n"
# A longer number is above Tornado's own limit, which is 2**62 here.
_LENGTH_DIGITS = 18
# As nginx logs a client that disconnected before its reply.
_CLIENT_GONE = 499
_tasks: set[asyncio.Task[None]] = set()
# Longer than the idle time of common load balancers (60 s), so that the balancer closes an idle connection first.
_IDLE_SECONDS = 75.0
_HEADER_BYTES = 32 << 10
_CHUNK_BYTES = 64 << 10
# `IncomingRequest` counts bodies and replies with a problem; Tornado would only close the connection.
_NO_LIMIT = 1 << 62


class _RequestStream:
    """A connection's stream for the time of one request: after the reply it sends nothing else.

    Tornado answers a body that it cannot parse with a bare 400, even where the request already has its reply.
    """

    def __init__(self, stream: IOStream) -> None:
        self._stream = stream
        self.replied = False
        self.rejected = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, data: bytes) -> asyncio.Future[None]:
        """Send `data`, or only flush after the reply."""
        self.rejected = self.rejected or (not self.replied and data == _MALFORMED)
        return self._stream.write(b"" if self.replied else data)


class IncomingRequest(HTTPMessageDelegate):
    """Reads one request, has the application answer it, and writes the reply."""

    def __init__(self, handler: Application, connection: HTTP1Connection, remote: str) -> None:
        self._handler = handler
        self._connection = connection
        self._stream = _RequestStream(connection.stream)
        connection.stream = cast("IOStream", self._stream)
        self._remote = remote
        self._request: Request | None = None
        self._match: Match | None = None
        self._permit: Permit | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._refused = False
        self._written = False
        self._recorded = False
        self._finished = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        """Admit or refuse the request by its first line and its headers."""
        assert isinstance(start_line, RequestStartLine)
        path = start_line.path.partition("?")[0]
        request = self._request = self._handler.start_request(start_line.method, path, headers, self._remote)
        try:
            if not _PATH.fullmatch(path):
                raise Problem(HTTPStatus.NOT_FOUND, "Not found", "This path does not exist.")
            self._match, self._permit = self._handler.admit(request)
            self._check_size(_announced_length(headers))
            self._start_timer(self._handler.body_seconds, self._refuse_late_body)
        except Problem as problem:
            self._refuse(problem)

    def data_received(self, chunk: bytes) -> None:
        """Keep a piece of the body, or drop it where the request is refused."""
        self._size += len(chunk)
        if self._refused:
            if self._size > _DISCARD_BYTES:
                self._finish()
            return
        assert self._match is not None
        try:
            self._check_size(self._size)
            if self._permit is not None:
                self._permit.reserve(len(chunk))
        except Problem as problem:
            self._refuse(problem)
            return
        if self._match.route.takes_body:
            self._chunks.append(chunk)

    def finish(self) -> None:
        """Answer the request: its body is complete."""
        self._stop_timer()
        if self._refused:
            self._finish()
            return
        request, match = self._request, self._match
        assert request is not None
        assert match is not None
        request.body = b"".join(self._chunks)
        self._chunks.clear()
        self._connection.set_close_callback(self._on_client_gone)
        self._task = _start_task(self._answer(request, match))

    def on_connection_close(self) -> None:
        """Record that the client disconnected while it sent, or that Tornado refused its body."""
        self._stop_timer()
        self._record_end(int(HTTPStatus.BAD_REQUEST) if self._stream.rejected else _CLIENT_GONE, 0)

    async def _answer(self, request: Request, match: Match) -> None:
        try:
            reply = await self._handler.answer(request, match)
        except asyncio.CancelledError:
            self._record_end(_CLIENT_GONE, 0)
            raise
        self._write(reply)
        self._finish()

    def _check_size(self, size: int) -> None:
        if size > self._handler.body_bytes:
            raise Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "Too large",
                f"The body has more than {self._handler.body_bytes} bytes; send a smaller one.",
            )

    def _refuse(self, problem: Problem) -> None:
        """Reply at once, and drop the rest of the body for a while before the connection is closed."""
        self._stop_timer()
        if self._permit is not None:
            self._permit.release()
        self._refused = True
        self._chunks.clear()
        request = self._request
        assert request is not None
        self._write(problem_reply(problem, request))
        if request.headers.get("Expect", "").lower() == "100-continue":
            self._finish()  # the client waits for 100 Continue, so no body is on its way
        else:
            self._start_timer(_DISCARD_SECONDS, self._finish)

    def _write(self, reply: Reply) -> None:
        request = self._request
        if request is None or self._written or self._recorded:
            return
        self._written = True
        headers = self._handler.headers(request, reply)
        body = b"" if request.method == "HEAD" else reply.body
        line = ResponseStartLine("HTTP/1.1", reply.status, _reason(reply.status))
        with contextlib.suppress(StreamClosedError):
            written = self._connection.write_headers(line, headers, body)
            self._stream.replied = True
            if not written.done():
                self._record_end_when_read(written, int(reply.status), len(body))
                return
        self._record_end(int(reply.status), len(body))

    def _record_end_when_read(self, written: asyncio.Future[None], status: int, size: int) -> None:
        """Keep the request in flight until its client has read the reply, for at most `_WRITE_SECONDS`.

        Until then the reply takes memory, and a stopping gateway would cut it off.
        """

        def hang_up() -> None:
            self._connection.close()
            self._record_end(status, size)

        def done(_: asyncio.Future[None]) -> None:
            timer.cancel()
            if not written.cancelled():
                written.exception()  # a disconnected client is not logged
            self._record_end(status, size)

        timer = asyncio.get_running_loop().call_later(_WRITE_SECONDS, hang_up)
        written.add_done_callback(done)

    def _record_end(self, status: int, size: int) -> None:
        """Release the permit, and report the status once."""
        if self._permit is not None:
            self._permit.release()
        if self._request is not None and not self._recorded:
            self._recorded = True
            self._handler.end_request(self._request, status, size)

    def _finish(self) -> None:
        """Finish the reply; this closes the connection where the body is not complete yet."""
        self._stop_timer()
        if not self._finished:
            self._finished = True
            with contextlib.suppress(StreamClosedError):
                self._connection.finish()

    def _refuse_late_body(self) -> None:
        self._refuse(
            Problem(
                HTTPStatus.REQUEST_TIMEOUT,
                "Request timeout",
                f"The body did not arrive within {self._handler.body_seconds:g} seconds; send the request again.",
            )
        )

    def _on_client_gone(self) -> None:
        if self._written:
            self._record_end(_CLIENT_GONE, 0)
        elif self._task is not None:
            self._task.cancel()

    def _start_timer(self, seconds: float, callback: Any) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, callback)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _start_task(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Return a task, and keep a reference to it until it ends."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


def _announced_length(headers: HTTPHeaders) -> int:
    """Return the Content-Length, or 0 where it is malformed: Tornado refuses that when it reads the body."""
    text = headers.get("Content-Length", "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _LENGTH_DIGITS else 0


def _reason(status: int) -> str:
    return HTTPStatus(status).phrase


class Listener:
    """Listens from `open` to `close`."""

    def __init__(self, listen: Listen, handler: Application, *, connections: int) -> None:
        self._listen = listen
        self._tls = None if listen.tls is None else tls_context(listen.tls)
        self._server = _Server(
            _Requests(handler),
            ssl_options=self._tls,
            idle_connection_timeout=_IDLE_SECONDS,
            max_header_size=_HEADER_BYTES,
            chunk_size=_CHUNK_BYTES,
            max_body_size=_NO_LIMIT,
        )
        self._server.max_connections = connections
        self.url = ""

    @property
    def connections(self) -> int:
        """Return the number of open connections, idle ones included."""
        return len(self._server._connections)

    def open(self) -> None:
        """Start to listen; raise InvalidInput where the address cannot be bound."""
        listen = self._listen
        try:
            sockets = bind_sockets(listen.port, listen.address, backlog=1024)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidInput(
                f"The address {listen.address}:{listen.port} cannot be bound: {reason}.",
                "Correct `listen`, or stop the process that uses the port.",
            ) from error
        self._server.add_sockets(sockets)
        host = f"[{listen.address}]" if ":" in listen.address else listen.address
        self.url = f"{'https' if self._tls else 'http'}://{host}:{sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        """Accept no new connections."""
        self._server.stop()

    async def close(self) -> None:
        """Close the connections that are still open."""
        await self._server.close_all_connections()


class _Server(HTTPServer):
    max_connections = 1

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if len(self._connections) >= self.max_connections:
            stream.close()
            return
        # Send small replies at once.
        with contextlib.suppress(OSError):
            stream.set_nodelay(True)
        super().handle_stream(stream, address)


class _Requests(HTTPServerConnectionDelegate):
    def __init__(self, handler: Application) -> None:
        self._handler = handler

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        connection = cast("HTTP1Connection", request_conn)
        remote = str(getattr(connection.context, "remote_ip", "") or "")
        return IncomingRequest(self._handler, connection, remote)


def tls_context(tls: ListenTLS) -> ssl.SSLContext:
    """Return the TLS context of the port; raise InvalidInput for files that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a passphrase OpenSSL would ask for one on the terminal and wait.
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"The certificate {tls.certificate} and the key {tls.key} cannot be used: {error.strerror or error}.",
            "Give a PEM certificate chain and its key without a passphrase.",
        ) from error
    return context
