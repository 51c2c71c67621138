"""A part of the public internet as far as the fetcher can tell, all of it on loopback."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from gateway.waiting import LONG, until
from gateway.web_servers import PUBLIC, PUBLIC_SIX, Reply, Resolver, WebServer, Wires
from tfs_deploy.gateway.config import Fetch
from tfs_deploy.gateway.fetching.fetch import Fetcher
from tfs_deploy.gateway.problem import Problem
from tfs_deploy.gateway.processors.protocol import Blob

PICTURE = b"\x89PNG a picture"
NAMES = {
    "web.test": [PUBLIC],
    "six.test": [PUBLIC_SIX, PUBLIC],
    "metadata.test": ["169.254.169.254"],
    "inside.test": ["10.0.0.7"],
    "loop.test": ["127.0.0.1"],
    "mixed.test": [PUBLIC, "192.168.0.1"],
    "empty.test": [],
}


class World:
    """One web server that is on the public internet as far as the fetcher can tell."""

    def __init__(
        self, server: WebServer, resolver: Resolver, wires: Wires, options: Mapping[str, Any], tls: Any
    ) -> None:
        self.server, self.resolver, self.wires = server, resolver, wires
        self.fetcher = Fetcher(Fetch(**{"timeout_seconds": LONG, **options}), resolve=resolver, connect=wires, tls=tls)

    async def get(self, url: str, seconds: float = LONG) -> Blob:
        return await self.fetcher.fetch(url, deadline=time.monotonic() + seconds)

    async def refused(self, url: str, seconds: float = LONG) -> Problem:
        with pytest.raises(Problem) as caught:
            await self.get(url, seconds)
        for secret in ("10.0.0.7", "127.0.0.1", "169.254", "192.168", "Traceback"):
            assert secret not in caught.value.detail
        assert caught.value.detail.startswith("The URL ")
        return caught.value


def on_the_web(
    pages: Mapping[str, Reply],
    scenario: Callable[[World], Awaitable[None]],
    *,
    names: Mapping[str, Any] | None = None,
    tls: Any = (None, None),
    **options: Any,
) -> None:
    """Run `scenario` with a server that has `pages`; afterwards no connection may be open, at either end."""

    async def run() -> None:
        async with WebServer(pages, tls[0]) as server:
            before = len(os.listdir("/proc/self/fd"))
            await scenario(World(server, Resolver({**NAMES, **(names or {})}), Wires(server), options, tls[1]))
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before, "the end of every connection")

    asyncio.run(run())
