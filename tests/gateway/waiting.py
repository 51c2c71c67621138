"""Waiting in tests: for what is to come, never for a time; always with an end that a busy machine does not reach."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

LONG = 60.0
_PAUSE = 0.01

T = TypeVar("T")


async def until(done: Callable[[], Any], what: str = "", *, seconds: float = LONG) -> Any:
    """Return the first value of `done`, which may be a coroutine function, that is true."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        value = done()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert loop.time() < end, f"not within {seconds:g} s: {what or inspect.getsource(done).strip()}"
        await asyncio.sleep(_PAUSE)


async def ended(work: Awaitable[T], what: str = "", *, seconds: float = LONG) -> T:
    """Return what `work` gives; fail where it does not end."""
    task = asyncio.ensure_future(work)
    # Not wait_for(): work that cannot be cancelled would be waited for for ever.
    await asyncio.wait({task}, timeout=seconds)
    assert task.done(), f"not within {seconds:g} s: {what or work!r}"
    return task.result()
