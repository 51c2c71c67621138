"""Fetch a URL within limits of size, time, redirects and content type.

There is no proxy, no cookie and no state between two fetches. A name is resolved once per redirect, each of its
addresses is checked, and the connection goes to a checked address by its number: a later change of the name has no
effect. Every redirect is checked like the first URL.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
import zlib
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from urllib.parse import unquote

from tornado import httputil
from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.iostream import IOStream, StreamClosedError

from tfs_deploy.gateway import problem
from tfs_deploy.gateway.config import Fetch
from tfs_deploy.gateway.fetching.connection import (
    CannotResolve,
    Connect,
    Resolve,
    SocketAddress,
    SystemResolver,
    connect,
)
from tfs_deploy.gateway.fetching.rules import BadURL, FetchRules, Target, parse_url, redirect_target
from tfs_deploy.gateway.processors.protocol import Blob

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# A server that sends many interim responses (RFC 9110, 15.2) only keeps a slot busy.
_MAX_INTERIM = 4
_GZIP_WBITS = 16 + zlib.MAX_WBITS
logger = logging.getLogger(__name__)
_MAX_HEADER_BYTES = 16 << 10
_CHUNK_BYTES = 64 << 10
_NO_LIMIT = 1 << 62
# The number of addresses of one name that are tried.
_MAX_ADDRESSES = 4
_NOT_ALLOWED = "leads to an address or a port that may not be fetched from"
_USER_AGENT = "tfs-deploy-gateway"


class FetchRefused(Exception):
    """The response is refused; `reason` completes "The URL …", `client_error` says that the client chose a bad URL."""

    def __init__(self, reason: str, *, client_error: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.client_error = client_error


class FetchResponse(httputil.HTTPMessageDelegate):
    """Collects one response; calls `close` when it needs no more, and then has `refusal` or `location`."""

    def __init__(self, *, max_bytes: int, content_types: Sequence[str], close: Callable[[], None]) -> None:
        self.body = bytearray()
        self.content_type = ""
        self.location: str | None = None
        self.refusal: FetchRefused | None = None
        self.complete = False
        self.began = False
        self._max_bytes = max_bytes
        self._received = 0
        self._content_types = content_types
        self._close = close
        self._interim = 0
        self._inflate: _Gunzip | None = None

    def headers_received(
        self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> None:
        """Decide by status and headers whether to read the body."""
        assert isinstance(start_line, httputil.ResponseStartLine)
        if 100 <= start_line.code < 200:
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                self._refuse("sends interim responses without end", client_error=False)
            return
        self.began = True
        if start_line.code in _REDIRECTS and "Location" in headers:
            self.location = headers.get_list("Location")[0]
            self._close()
            return
        self._check_head(start_line.code, headers)

    def data_received(self, chunk: bytes) -> None:
        """Add a part of the body, or close where it becomes too large."""
        if self.refusal is not None:
            return
        self._received += len(chunk)
        try:
            # One byte above the limit is enough to detect a body that is too large.
            data = self._inflate(chunk, self._max_bytes + 1 - len(self.body)) if self._inflate else chunk
        except zlib.error:
            self._refuse("sends a body that is not valid gzip")
            return
        if self._received > self._max_bytes or len(self.body) + len(data) > self._max_bytes:
            self._refuse(self._too_large())
            return
        self.body += data

    def finish(self) -> None:
        """Note that the response is complete."""
        if self.refusal is None and self._inflate is not None and not self._inflate.whole:
            self._refuse("ends in the middle of its body", client_error=False)
        self.complete = self.refusal is None

    def on_connection_close(self) -> None:
        """Leave the response incomplete."""

    def _check_head(self, code: int, headers: httputil.HTTPHeaders) -> None:
        if code != 200:
            self._refuse(f"answers with the status {code}", client_error=code < 500)
            return
        self.content_type = headers.get("Content-Type", "application/octet-stream").split(";")[0].strip().lower()
        length = headers.get("Content-Length", "")
        coding = headers.get("Content-Encoding", "identity").strip().lower()
        if not any(fnmatchcase(self.content_type, pattern.lower()) for pattern in self._content_types):
            self._refuse(
                f"has the content type {self.content_type[:100]!r}; allowed are {', '.join(self._content_types)}"
            )
        elif length.isdecimal() and int(length[:20]) > self._max_bytes:
            self._refuse(self._too_large())
        elif coding in ("gzip", "x-gzip"):
            self._inflate = _Gunzip()
        elif coding not in ("", "identity"):
            self._refuse(f"has a body in the coding {coding[:40]!r}; only gzip is supported")

    def _refuse(self, reason: str, *, client_error: bool = True) -> None:
        self.refusal = FetchRefused(reason, client_error=client_error)
        self._close()

    def _too_large(self) -> str:
        return f"has more than {self._max_bytes} bytes"


class _Gunzip:
    """Decompresses gzip in parts, with a bounded output."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP_WBITS)

    @property
    def whole(self) -> bool:
        """Return whether the compressed data has ended."""
        return self._stream.eof

    def __call__(self, data: bytes, max_bytes: int) -> bytes:
        """Return at most `max_bytes` of decompressed `data`; bytes after the end of the stream are ignored."""
        return self._stream.decompress(data, max_bytes)


class Fetcher:
    """Fetches URLs for all requests of a gateway, `total_parallel` at once."""

    def __init__(
        self,
        config: Fetch,
        *,
        resolve: Resolve | None = None,
        connect: Connect = connect,
        tls: ssl.SSLContext | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._rules = FetchRules(allow_hosts=config.allow_hosts, only_hosts=config.only_hosts)
        own = SystemResolver()  # starts no thread before its first use
        self._resolve: Resolve = resolve or own
        self._close_resolver = own.close
        self._connect = connect
        self._tls = tls or ssl.create_default_context()
        self._monotonic = monotonic
        self._slots = asyncio.Semaphore(config.total_parallel)

    async def fetch(self, url: str, *, deadline: float, item: int | None = None) -> Blob:
        """Return the body of `url`; `deadline` is on the monotonic clock, `item` is the index of its item.

        Raise Problem: 422 where the URL cannot or may not be fetched, 502 where its server fails, 504 where it is slow.
        The problem never has an address, because that would reveal names of the gateway's own network.
        """
        which = "The URL" if item is None else f"The URL of item {item}"
        if not self._config.enabled:
            raise problem.unusable(
                f"{which} cannot be fetched: this gateway fetches no URLs; send the bytes.",
                item=item,
            )
        seconds = min(self._config.timeout_seconds, deadline - self._monotonic())
        try:
            return await asyncio.wait_for(self._fetch_in_slot(url), max(0.0, seconds))
        except asyncio.TimeoutError:
            raise problem.too_late(f"{which} did not answer in time.") from None
        except BadURL as error:
            raise problem.unusable(f"{which} {error}.", item=item) from error
        except FetchRefused as error:
            if error.client_error:
                raise problem.unusable(f"{which} {error.reason}.", item=item) from error
            raise problem.bad_upstream(f"{which} {error.reason}.") from error

    def close(self) -> None:
        """Stop the resolver's threads."""
        self._close_resolver()

    async def _fetch_in_slot(self, url: str) -> Blob:
        async with self._slots:
            return await self._follow(parse_url(url))

    async def _follow(self, target: Target) -> Blob:
        for _ in range(self._config.redirects + 1):
            response = await self._request(target)
            if response.location is None:
                name = unquote(target.path.split("?")[0].rsplit("/", 1)[-1])
                return Blob(bytes(response.body), response.content_type, name)
            target = redirect_target(target, response.location)
        raise FetchRefused(f"redirects more than {self._config.redirects} times")

    async def _request(self, target: Target) -> FetchResponse:
        stream = await self._connect_any(target, await self._resolve_allowed(target))
        try:
            return await self._exchange(target, stream)
        finally:
            stream.close()

    async def _resolve_allowed(self, target: Target) -> list[SocketAddress]:
        """Return the addresses of `target`; raise FetchRefused where one of them is not permitted."""
        if not self._rules.may_resolve(target):
            raise FetchRefused(_NOT_ALLOWED)
        try:
            addresses = list(await self._resolve(target.host, target.port))
        except CannotResolve as error:
            raise FetchRefused("has a host that cannot be resolved") from error
        if not addresses:
            raise FetchRefused("has a host that cannot be resolved")
        for socket_address in addresses:
            if not self._rules.permits(target, socket_address.address) or socket_address.port != target.port:
                logger.warning(
                    "Refused to fetch the URL of a client: %s resolves to %s.",
                    target.host_header,
                    socket_address.address,
                )
                raise FetchRefused(_NOT_ALLOWED)
        return addresses[:_MAX_ADDRESSES]

    async def _connect_any(self, target: Target, addresses: Sequence[SocketAddress]) -> IOStream:
        share = self._config.timeout_seconds / len(addresses)
        for socket_address in addresses:
            try:
                return await self._connect_one(target, socket_address, share)
            except ssl.SSLCertVerificationError as error:
                raise FetchRefused("has a certificate that is not valid for it", client_error=False) from error
            except OSError as error:
                logger.info("No connection to %s at %s: %s", target.host_header, socket_address.address, error)
        raise FetchRefused("has a server that does not accept a connection", client_error=False)

    async def _connect_one(self, target: Target, socket_address: SocketAddress, seconds: float) -> IOStream:
        tls = self._tls if target.scheme == "https" else None
        buffer = self._config.max_bytes + _MAX_HEADER_BYTES
        task = asyncio.ensure_future(self._connect(socket_address, tls=tls, name=target.host, buffer=buffer))
        # Not wait_for(): before Python 3.12 it may lose the stream or the cancellation where both come at once.
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            _cancel_connect(task)
            raise
        if not done:
            _cancel_connect(task)
            raise TimeoutError(f"no connection in {seconds:g} s")
        return task.result()

    async def _exchange(self, target: Target, stream: IOStream) -> FetchResponse:
        response = FetchResponse(
            max_bytes=self._config.max_bytes, content_types=self._config.content_types, close=stream.close
        )
        parameters = HTTP1ConnectionParameters(
            no_keep_alive=True,
            chunk_size=_CHUNK_BYTES,
            max_header_size=_MAX_HEADER_BYTES,
            # `response` counts the bytes and refuses with a reason; Tornado would only close the connection.
            max_body_size=_NO_LIMIT,
        )
        connection = HTTP1Connection(stream, True, parameters)
        try:
            connection.write_headers(httputil.RequestStartLine("GET", target.path, ""), _headers(target, self._config))
            connection.finish()
            await connection.read_response(response)
        except StreamClosedError:
            pass  # closed by the server, or by `response`, which has the reason then
        if response.refusal is not None:
            raise response.refusal
        if response.location is None and not response.complete:
            reason = "ends in the middle of its body" if response.began else "does not answer with HTTP"
            raise FetchRefused(reason, client_error=False)
        return response


def _cancel_connect(connecting: asyncio.Future[IOStream]) -> None:
    """Cancel an attempt to connect, and close a stream that it returns nevertheless."""
    connecting.cancel()

    def close(ended: asyncio.Future[IOStream]) -> None:
        if not ended.cancelled() and ended.exception() is None:
            ended.result().close()

    connecting.add_done_callback(close)


def _headers(target: Target, config: Fetch) -> httputil.HTTPHeaders:
    return httputil.HTTPHeaders(
        {
            "Host": target.host_header,
            "User-Agent": _USER_AGENT,
            "Accept": ", ".join(config.content_types),
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
    )
