"""Fetch what a URL names, within limits of size, time, redirects and content type.

No proxy, no environment, no cookies, nothing kept between two fetches. A name is resolved once per hop, every address
it has is checked, and the connection goes to a checked address by its number: what the name means a moment later does
not matter. Redirects are followed here, each one checked like the first URL.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from urllib.parse import unquote

from tornado import httputil
from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.iostream import IOStream, StreamClosedError

from tfs_deploy.gateway import problem
from tfs_deploy.gateway.config import Fetch
from tfs_deploy.gateway.fetching import connecting
from tfs_deploy.gateway.fetching.body import Answer, Refusal
from tfs_deploy.gateway.fetching.resolving import CannotResolve, Place, Resolve, SystemResolver
from tfs_deploy.gateway.fetching.rules import Rules
from tfs_deploy.gateway.fetching.url import BadURL, Target, parse, redirected
from tfs_deploy.gateway.processors.protocol import Blob

log = logging.getLogger(__name__)

_MAX_HEADER_BYTES = 16 << 10
_CHUNK_BYTES = 64 << 10
_NO_LIMIT = 1 << 62
# A name with many addresses is tried at this many of them.
_MOST_PLACES = 4
_NOT_ALLOWED = "leads to an address or a port that may not be fetched from"
_USER_AGENT = "tfs-deploy-gateway"


class Fetcher:
    """Fetches for all requests of a gateway, `total_parallel` at once; `close` when it ends."""

    def __init__(
        self,
        config: Fetch,
        *,
        resolve: Resolve | None = None,
        connect: connecting.Connect = connecting.connect,
        tls: ssl.SSLContext | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._rules = Rules(allow_hosts=config.allow_hosts, only_hosts=config.only_hosts)
        own = SystemResolver()  # no thread before its first use
        self._resolve: Resolve = resolve or own
        self._close_resolver = own.close
        self._connect = connect
        self._tls = tls or ssl.create_default_context()
        self._monotonic = monotonic
        self._places = asyncio.Semaphore(config.total_parallel)

    async def fetch(self, url: str, *, deadline: float, item: int | None = None) -> Blob:
        """Return what `url` holds; `deadline` is on the monotonic clock, `item` names the URL's place in the request.

        Raise Problem: 422 where the URL cannot or may not be fetched, 502 where its server fails, 504 where it is
        slow. The problem never tells an address: what a name means inside this network is nobody's business.
        """
        which = "The URL" if item is None else f"The URL of item {item}"
        if not self._config.enabled:
            raise problem.unusable(f"{which} cannot be fetched: this gateway fetches none; send the bytes.", item=item)
        seconds = min(self._config.timeout_seconds, deadline - self._monotonic())
        try:
            return await asyncio.wait_for(self._in_turn(url), max(0.0, seconds))
        except asyncio.TimeoutError:
            raise problem.too_late(f"{which} did not answer in time.") from None
        except BadURL as error:
            raise problem.unusable(f"{which} {error}.", item=item) from error
        except Refusal as error:
            if error.clients_fault:
                raise problem.unusable(f"{which} {error.reason}.", item=item) from error
            raise problem.bad_upstream(f"{which} {error.reason}.") from error

    def close(self) -> None:
        """Let the resolver's threads go."""
        self._close_resolver()

    async def _in_turn(self, url: str) -> Blob:
        async with self._places:
            return await self._follow(parse(url))

    async def _follow(self, target: Target) -> Blob:
        for _ in range(self._config.redirects + 1):
            answer = await self._get(target)
            if answer.location is None:
                name = unquote(target.path.split("?")[0].rsplit("/", 1)[-1])
                return Blob(bytes(answer.body), answer.content_type, name)
            target = redirected(target, answer.location)
        raise Refusal(f"leads on more than {self._config.redirects} times")

    async def _get(self, target: Target) -> Answer:
        stream = await self._connected(target, await self._checked(target))
        try:
            return await self._ask(target, stream)
        finally:
            stream.close()

    async def _checked(self, target: Target) -> list[Place]:
        """Return the places that `target` may be fetched from; raise Refusal if one of them may not be."""
        if not self._rules.may_ask(target):
            raise Refusal(_NOT_ALLOWED)
        try:
            places = list(await self._resolve(target.host, target.port))
        except CannotResolve as error:
            raise Refusal("has a host that cannot be found") from error
        if not places:
            raise Refusal("has a host that cannot be found")
        for place in places:
            if not self._rules.permits(target, place.address) or place.port != target.port:
                log.warning("The URL of a client was not fetched: %s is %s.", target.host_header, place.address)
                raise Refusal(_NOT_ALLOWED)
        return places[:_MOST_PLACES]

    async def _connected(self, target: Target, places: Sequence[Place]) -> IOStream:
        share = self._config.timeout_seconds / len(places)
        for place in places:
            try:
                return await self._connected_to(target, place, share)
            except ssl.SSLCertVerificationError as error:
                raise Refusal("has a certificate that is not valid for it", clients_fault=False) from error
            except OSError as error:
                log.info("No connection to %s at %s: %s", target.host_header, place.address, error)
        raise Refusal("has a server that does not answer", clients_fault=False)

    async def _connected_to(self, target: Target, place: Place, seconds: float) -> IOStream:
        tls = self._tls if target.scheme == "https" else None
        buffer = self._config.max_bytes + _MAX_HEADER_BYTES
        task = asyncio.ensure_future(self._connect(place, tls=tls, name=target.host, buffer=buffer))
        # Not wait_for(): before Python 3.12 it may lose the stream, or the cancelling, where both come at once.
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            _give_up(task)
            raise
        if not done:
            _give_up(task)
            raise TimeoutError(f"nothing in {seconds:g} s")
        return task.result()

    async def _ask(self, target: Target, stream: IOStream) -> Answer:
        answer = Answer(max_bytes=self._config.max_bytes, content_types=self._config.content_types, close=stream.close)
        parameters = HTTP1ConnectionParameters(
            no_keep_alive=True,
            chunk_size=_CHUNK_BYTES,
            max_header_size=_MAX_HEADER_BYTES,
            # `answer` counts, and refuses with its reason; Tornado would only hang up.
            max_body_size=_NO_LIMIT,
        )
        connection = HTTP1Connection(stream, True, parameters)
        try:
            connection.write_headers(httputil.RequestStartLine("GET", target.path, ""), _headers(target, self._config))
            connection.finish()
            await connection.read_response(answer)
        except StreamClosedError:
            pass  # by the server, or by `answer`, which then says why
        if answer.refusal is not None:
            raise answer.refusal
        if answer.location is None and not answer.complete:
            told = "ends in the middle of its body" if answer.began else "does not answer with HTTP"
            raise Refusal(told, clients_fault=False)
        return answer


def _give_up(connecting: asyncio.Future[IOStream]) -> None:
    """End an attempt to connect, and close what it has made all the same."""
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
