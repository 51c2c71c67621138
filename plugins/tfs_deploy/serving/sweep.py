"""The same question to many model servers at once, over asyncio clients, from code that blocks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from tfs_deploy.errors import TFSDeployError
from tfs_deploy.serving.base_client import AsyncServingClient

T = TypeVar("T")

# Each connection needs a file descriptor, and a process often has 1,024 of them.
MAX_CONNECTIONS = 256
# A thread begins within milliseconds.
_BEGIN_SECONDS = 5.0


def ask_each(
    connect: Callable[[str], AsyncServingClient],
    targets: Collection[str],
    question: Callable[[AsyncServingClient], Awaitable[T]],
    *,
    max_connections: int = MAX_CONNECTIONS,
) -> dict[str, T | TFSDeployError]:
    """Return what `question` answers for a client of each target, or its TFSDeployError, in the order of `targets`.

    At most `max_connections` clients are open at once. `question` bounds its own RPCs in time. Any other exception of
    it ends all questions and is raised. The event loop runs in a thread of its own, so this may be called from any
    thread, also from one that runs an event loop. Ctrl-C cancels the RPCs.
    """
    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()
    results: Future[dict[str, T | TFSDeployError]] = Future()

    async def ask() -> dict[str, T | TFSDeployError]:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        loop.set_exception_handler(_on_loop_exception)
        running.set_result((loop, task))
        return await _ask_each(connect, targets, question, max_connections)

    def run() -> None:
        try:
            results.set_result(asyncio.run(ask()))
        except BaseException as error:
            results.set_exception(error)

    # Not a pool: one that is interrupted while it starts its thread does not wait for that thread.
    thread = threading.Thread(target=run, name="sweep")
    try:
        thread.start()
        return results.result()
    except KeyboardInterrupt:
        # The thread may not have begun (TimeoutError), or may have ended just now (RuntimeError).
        with contextlib.suppress(FutureTimeoutError, RuntimeError):
            loop, task = running.result(timeout=_BEGIN_SECONDS)
            loop.call_soon_threadsafe(task.cancel)
            thread.join()
        raise


async def _ask_each(
    connect: Callable[[str], AsyncServingClient],
    targets: Collection[str],
    question: Callable[[AsyncServingClient], Awaitable[T]],
    max_connections: int,
) -> dict[str, T | TFSDeployError]:
    results: dict[str, T | TFSDeployError] = {}
    waiting = iter(targets)

    async def ask_waiting() -> None:
        for target in waiting:
            try:
                client = connect(target)
                try:
                    results[target] = await question(client)
                finally:
                    await client.close()
            except TFSDeployError as error:
                results[target] = error

    tasks = [asyncio.create_task(ask_waiting()) for _ in range(min(max_connections, len(targets)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {target: results[target] for target in targets}


def _on_loop_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # With event loops in several threads, gRPC 1.71 wakes all of them for an event of one, and the others read nothing.
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)
