"""One request on a connection: its headers are judged before its body is read, its body is counted as it comes.

Below `tornado.web`, because every answer has to have one form, those to requests that are refused half way among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, Protocol

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError

from tfs_deploy.gateway.problem import Problem
from tfs_deploy.gateway.web.message import Reply, Request, problem_reply
from tfs_deploy.gateway.web.request_budget import Ticket
from tfs_deploy.gateway.web.routes import Match

logger = logging.getLogger(__name__)

# A client that is refused may still be sending: this much is read, so that it sees the answer and not a broken pipe.
_DISCARD_BYTES = 16 << 20
_DISCARD_SECONDS = 5.0
_WRITE_SECONDS = 30.0
# Raw bytes in a request line are not ASCII; a proxy would have escaped them.
_PATH = re.compile(r"/[!-~]*")


class Judge(Protocol):
    """What decides about requests and answers them."""

    body_bytes: int
    body_seconds: float

    def begin(self, method: str, path: str, headers: HTTPHeaders, remote: str) -> Request:
        """Return the request that begins with this."""

    def admit(self, request: Request) -> tuple[Match, Ticket | None]:
        """Return what answers the request, and the room it takes; raise Problem."""

    async def answer(self, request: Request, match: Match) -> Reply:
        """Return the answer; raises nothing."""

    def headers(self, request: Request, reply: Reply) -> HTTPHeaders:
        """Return all headers of an answer."""

    def ended(self, request: Request, status: int, size: int) -> None:
        """Note that `request` was answered with `size` bytes, or (499) that its client went away."""


class Incoming(HTTPMessageDelegate):
    """Reads one request, has it answered, writes the answer."""

    def __init__(self, judge: Judge, connection: HTTP1Connection, remote: str) -> None:
        self._judge = judge
        self._connection = connection
        self._remote = remote
        self._request: Request | None = None
        self._match: Match | None = None
        self._ticket: Ticket | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._refused = False
        self._written = False
        self._ended = False
        self._finished = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        """Judge the request by its first line and its headers."""
        assert isinstance(start_line, RequestStartLine)
        path = start_line.path.partition("?")[0]
        request = self._request = self._judge.begin(start_line.method, path, headers, self._remote)
        try:
            if not _PATH.fullmatch(path):
                raise Problem(HTTPStatus.NOT_FOUND, "Not found", "There is nothing at this path.")
            self._match, self._ticket = self._judge.admit(request)
            self._check_size(_announced(headers))
            self._time_out_after(self._judge.body_seconds, self._body_too_late)
        except Problem as problem:
            self._refuse(problem)

    def data_received(self, chunk: bytes) -> None:
        """Keep a piece of the body, or throw it away."""
        self._size += len(chunk)
        if self._refused:
            if self._size > _DISCARD_BYTES:
                self._finish()
            return
        assert self._match is not None
        try:
            self._check_size(self._size)
            if self._ticket is not None:
                self._ticket.grow(len(chunk))
        except Problem as problem:
            self._refuse(problem)
            return
        if self._match.route.takes_body:
            self._chunks.append(chunk)

    def finish(self) -> None:
        """Have the request answered, now that it is here."""
        self._stop_timer()
        if self._refused:
            self._finish()
            return
        request, match = self._request, self._match
        assert request is not None
        assert match is not None
        request.body = b"".join(self._chunks)
        self._chunks.clear()
        self._connection.set_close_callback(self._client_gone)
        self._task = _start(self._answer(request, match))

    def on_connection_close(self) -> None:
        """Note that the client went away while it sent."""
        self._stop_timer()
        self._end(_CLIENT_GONE, 0)

    async def _answer(self, request: Request, match: Match) -> None:
        try:
            reply = await self._judge.answer(request, match)
        except asyncio.CancelledError:
            self._end(_CLIENT_GONE, 0)
            raise
        self._write(reply)
        self._finish()

    def _check_size(self, size: int) -> None:
        if size > self._judge.body_bytes:
            raise Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "Too large",
                f"The body has more than {self._judge.body_bytes} bytes, which is the most that is taken.",
            )

    def _refuse(self, problem: Problem) -> None:
        """Answer at once, and read on for a while before the connection is closed."""
        self._stop_timer()
        if self._ticket is not None:
            self._ticket.leave()
        self._refused = True
        self._chunks.clear()
        request = self._request
        assert request is not None
        self._write(problem_reply(problem, request))
        if request.headers.get("Expect", "").lower() == "100-continue":
            self._finish()  # it waits to be told to send: nothing is on its way
        else:
            self._time_out_after(_DISCARD_SECONDS, self._finish)

    def _write(self, reply: Reply) -> None:
        request = self._request
        if request is None or self._written or self._ended:
            return
        self._written = True
        headers = self._judge.headers(request, reply)
        body = b"" if request.method == "HEAD" else reply.body
        line = ResponseStartLine("HTTP/1.1", reply.status, _reason(reply.status))
        with contextlib.suppress(StreamClosedError):
            written = self._connection.write_headers(line, headers, body)
            if not written.done():
                self._wait_for_reader(written, reply.status, len(body))
                return
        self._end(reply.status, len(body))

    def _wait_for_reader(self, written: asyncio.Future[None], status: int, size: int) -> None:
        """Keep the request under way while its client reads the answer, but not for ever.

        Until then the answer takes memory, and a gateway that ends would cut it off.
        """

        def hang_up() -> None:
            self._connection.close()
            self._end(status, size)

        def done(_: asyncio.Future[None]) -> None:
            timer.cancel()
            if not written.cancelled():
                written.exception()  # that it went away is no news
            self._end(status, size)

        timer = asyncio.get_running_loop().call_later(_WRITE_SECONDS, hang_up)
        written.add_done_callback(done)

    def _end(self, status: int, size: int) -> None:
        """Give the room back and tell how it ended, once."""
        if self._ticket is not None:
            self._ticket.leave()
        if self._request is not None and not self._ended:
            self._ended = True
            self._judge.ended(self._request, status, size)

    def _finish(self) -> None:
        """End the answer; where the body is not all here yet, that closes the connection."""
        self._stop_timer()
        if not self._finished:
            self._finished = True
            with contextlib.suppress(StreamClosedError):
                self._connection.finish()

    def _body_too_late(self) -> None:
        self._refuse(
            Problem(
                HTTPStatus.REQUEST_TIMEOUT,
                "Request timeout",
                f"The body did not arrive within {self._judge.body_seconds:g} seconds.",
            )
        )

    def _client_gone(self) -> None:
        if self._written:
            self._end(_CLIENT_GONE, 0)
        elif self._task is not None:
            self._task.cancel()

    def _time_out_after(self, seconds: float, act: Any) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, act)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


# What has more is above Tornado's own limit, which is 2**62 here.
_LENGTH_DIGITS = 18
# As nginx logs it: nobody was there to be answered.
_CLIENT_GONE = 499
_tasks: set[asyncio.Task[None]] = set()


def _start(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Return a task that is not forgotten before it ends."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


def _announced(headers: HTTPHeaders) -> int:
    """Return how long the body is said to be, 0 for what is no such number: Tornado, which reads it, answers that."""
    text = headers.get("Content-Length", "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _LENGTH_DIGITS else 0


def _reason(status: int) -> str:
    return HTTPStatus(status).phrase
