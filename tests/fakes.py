"""In-memory stand-ins that behave like the real thing: a model server, its clients and a clock.

`FakeModelServer` (fake_model_server.py) holds TF Serving's rules and speaks its messages. `FakeClient` and
`AsyncFakeClient` are clients of such a server: they run the same operations as the real ones, only without a network.
contract/serving_client_suite.py holds all to one behaviour.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from fake_model_server import (
    HALF_PLUS_TWO,
    FakeModelServer,
    FakeRpcError,
    FakeVersion,
    half_plus_two,
    signature_def,
)
from tfs_deploy.clock import Clock
from tfs_deploy.serving.base_client import AsyncServingClient, ServingClient
from tfs_deploy.serving.rpc import Method
from tfs_deploy.serving.rpc_calls import CallFailed

__all__ = [
    "HALF_PLUS_TWO",
    "AsyncFakeClient",
    "FakeClient",
    "FakeClock",
    "FakeModelServer",
    "FakeRpcError",
    "FakeVersion",
    "half_plus_two",
    "signature_def",
]


class FakeClock:
    """A clock that stands still until it is told to move; `sleep` moves it and calls `on_sleep` afterwards."""

    def __init__(self, start: datetime | None = None, on_sleep: Callable[[], object] | None = None) -> None:
        self._start = start or datetime(2026, 1, 1, tzinfo=timezone.utc)
        self._passed = 0.0
        self._on_sleep = on_sleep
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._passed)

    def monotonic(self) -> float:
        return self._passed

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass without a sleep."""
        self._passed += seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)
        if self._on_sleep is not None:
            self._on_sleep()


class FakeClient(ServingClient):
    """A `ServingClient` on a `FakeModelServer`, which `target` may name differently."""

    def __init__(
        self,
        server: FakeModelServer,
        target: str | None = None,
        *,
        clock: Clock | None = None,
        busy_timeout: float = 0.0,
    ) -> None:
        super().__init__(target or server.target, clock, busy_timeout=busy_timeout)
        self._server = server

    async def _send(self, method: Method, request: bytes, seconds: float) -> bytes:
        return _handle(self._server, method, request)


class AsyncFakeClient(AsyncServingClient):
    """`FakeClient` with coroutines, for what talks to the asyncio client."""

    def __init__(
        self,
        server: FakeModelServer,
        target: str | None = None,
        *,
        clock: Clock | None = None,
        busy_timeout: float = 0.0,
    ) -> None:
        super().__init__(target or server.target, clock, busy_timeout=busy_timeout)
        self._server = server

    async def _pause(self, seconds: float) -> None:
        self._clock.sleep(seconds)

    async def _send(self, method: Method, request: bytes, seconds: float) -> bytes:
        return _handle(self._server, method, request)


def _handle(server: FakeModelServer, method: Method, request: bytes) -> bytes:
    try:
        return server.handle(method, request)
    except FakeRpcError as error:
        raise CallFailed(error.code, error.details) from error
