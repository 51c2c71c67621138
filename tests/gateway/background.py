"""A gateway with several models in a thread of its own, for clients that are not asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from gateway.gateways import PICTURES, gateway, picture_version
from gateway.model_servers import Replica, version

MODELS: dict[str, dict[str, Any]] = {
    "pictures": {**PICTURES, "model": "m", "labels": ["stable"]},
    "numbers": {"model": "m", "description": "Numbers"},
    "texts": {"model": "m", "processor": {"name": "text", "options": {"input": "x", "encode": "strings"}}},
}


@contextlib.contextmanager
def background_gateway(**sections: Any) -> Iterator[str]:
    """Serve `MODELS` for the block; yield the URL."""
    started: list[str] = []
    failed: list[BaseException] = []
    ready, stop = threading.Event(), threading.Event()

    def serve() -> None:
        try:
            asyncio.run(_serve(sections, started, ready, stop))
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(120.0)
    assert not failed, failed
    try:
        yield started[0]
    finally:
        stop.set()
        thread.join(120.0)
    assert not failed, failed


async def _serve(sections: dict[str, Any], started: list[str], ready: threading.Event, stop: threading.Event) -> None:
    pictures = Replica({1: picture_version()}, {"stable": 1})
    others = {"numbers": Replica(), "texts": Replica({1: version((None,), dtype="DT_STRING")}, {"stable": 1})}
    for replica in others.values():
        await replica.start()
    models = {
        name: {**model, **({"replicas": [others[name].target]} if name in others else {})}
        for name, model in MODELS.items()
    }
    async with gateway(pictures, models=models, fetch={"enabled": False}, **sections) as g:
        started.append(g.url)
        ready.set()
        while not stop.is_set():
            await asyncio.sleep(0.02)
    for replica in others.values():
        await replica.stop()
