"""The HTTP server of the REST API: Tornado in its own thread, calls in a pool, so a long run blocks no other.

It is imported only with --rest_api_port, because Tornado is optional.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets

from tfs_deploy.modelserver.rest.api import Answer, RestApi, reason_phrase

logger = logging.getLogger(__name__)

# A request is in memory as bytes and as parsed JSON, about ten times as large; TF Serving has no limit.
MAX_BODY_BYTES = 2**30


class RestServer:
    """One listening port."""

    def __init__(self, api: RestApi, port: int, threads: int) -> None:
        """Bind the port; raise OSError if that is not possible."""
        self._api = api
        self._pool = ThreadPoolExecutor(max(threads, 1), thread_name_prefix="rest")
        self._sockets = bind_sockets(port)
        self._loop = asyncio.new_event_loop()
        self._pending: set[asyncio.Task[None]] = set()
        self._server: HTTPServer | None = None
        self._thread = threading.Thread(target=self._serve, name="rest", daemon=True)

    def start(self) -> None:
        """Start to answer."""
        self._thread.start()

    def stop(self, grace: float) -> None:
        """Refuse new connections, wait up to `grace` seconds for running calls, and stop."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._finish(grace), self._loop)
            self._thread.join(grace + 1)
        self._pool.shutdown(wait=False)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._listen)
        self._loop.run_forever()

    def _listen(self) -> None:
        self._server = HTTPServer(self._dispatch, max_body_size=MAX_BODY_BYTES)
        self._server.add_sockets(self._sockets)

    async def _finish(self, grace: float) -> None:
        if self._server is not None:
            self._server.stop()
        if self._pending:
            await asyncio.wait(tuple(self._pending), timeout=grace)
        if self._server is not None:
            await self._server.close_all_connections()
        self._loop.stop()

    def _dispatch(self, request: HTTPServerRequest) -> None:
        task = self._loop.create_task(self._respond(request))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _respond(self, request: HTTPServerRequest) -> None:
        method, path = request.method or "", request.uri or "/"
        origin, encoding = (request.headers.get(name, "") for name in ("Origin", "Content-Encoding"))
        answer = await self._loop.run_in_executor(
            self._pool, self._api.answer, method, path, origin, request.body, encoding
        )
        try:
            await self._send(request, answer)
        except StreamClosedError:
            logger.debug("%s %s: the caller closed the connection", method, path)

    async def _send(self, request: HTTPServerRequest, answer: Answer) -> None:
        assert request.connection is not None
        headers = HTTPHeaders(self._api.headers(answer))
        headers["Content-Length"] = str(len(answer.body))
        body = b"" if request.method == "HEAD" else answer.body
        request.connection.write_headers(
            ResponseStartLine("HTTP/1.1", answer.code, reason_phrase(answer.code)), headers
        )
        await request.connection.write(body)
        request.connection.finish()
