"""The same call on every replica at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tfs_deploy.serving.base_client import ServingClient

T = TypeVar("T")

_MAX_THREADS = 16


def call_each(clients: Mapping[str, ServingClient], call: Callable[[str], T]) -> dict[str, T]:
    """Return the result of `call` for the target of every client; raise the first exception once all calls ended.

    Ctrl-C closes the clients, which cancels their RPCs: without that it would wait until the RPCs time out.
    """
    pool = ThreadPoolExecutor(max_workers=max(1, min(len(clients), _MAX_THREADS)))
    try:
        results = {target: pool.submit(call, target) for target in clients}
        return {target: result.result() for target, result in results.items()}
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        for client in clients.values():
            client.close()
        raise
    finally:
        pool.shutdown()
