"""In-memory stand-ins that behave like the real thing: a model server, its clients and a clock.

`FakeModelServer` (fake_model_server.py) holds TF Serving's rules and speaks its messages. `FakeClient` and
`AsyncFakeClient` are `ServingClient`s on such a server: they run the same exchanges as the real clients, only without a
network. contract/serving_client_suite.py holds all to one behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from fake_model_server import (
    HALF_PLUS_TWO,
    FakeModelServer,
    FakeRpcError,
    FakeVersion,
    half_plus_two,
    signature_def,
)
from tfs_deploy.errors import TFSDeployError
from tfs_deploy.serving.protocol import Metadata, Prediction, VersionStatus
from tfs_deploy.serving.rpc_calls import Address, RpcCalls, call_error, check_timeout, closed_error
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE

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


class FakeClient:
    """A `ServingClient` on a `FakeModelServer`."""

    def __init__(self, server: FakeModelServer) -> None:
        self.target = server.target
        self.closed = False
        self._server = server
        self._exchanges = RpcCalls(server.target)

    def status(self, model: str, version: int | None = None, *, timeout: float) -> tuple[VersionStatus, ...]:
        return self._run(self._exchanges.status(Address(model, version)), timeout)

    def metadata(self, model: str, *, version: int | None = None, label: str | None = None, timeout: float) -> Metadata:
        return self._run(self._exchanges.metadata(Address(model, version, label)), timeout)

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] = (),
        timeout: float,
    ) -> Prediction:
        exchange = self._exchanges.predict(Address(model, version, label), inputs, signature, outputs)
        return self._run(exchange, timeout)

    def reload(self, config: Any, *, timeout: float) -> None:
        self._run(self._exchanges.reload(config), timeout)

    def close(self) -> None:
        self.closed = True

    def _run(self, exchange: Any, timeout: float) -> Any:
        check_timeout(timeout)
        try:
            call = next(exchange)
            while True:
                try:
                    reply = self._invoke(call, timeout)
                except TFSDeployError as error:
                    call = exchange.throw(error)
                else:
                    call = exchange.send(reply)
        except StopIteration as done:
            return done.value

    def _invoke(self, call: Any, timeout: float) -> bytes:
        if self.closed:
            raise closed_error(self.target, call)
        try:
            return self._server.handle(call.method, call.request)
        except FakeRpcError as error:
            raise call_error(self.target, call, error.code, error.details, timeout) from error


class AsyncFakeClient:
    """`FakeClient` with coroutines, for what talks to the asyncio client."""

    def __init__(self, server: FakeModelServer) -> None:
        self._client = FakeClient(server)
        self.target = server.target

    async def status(self, model: str, version: int | None = None, *, timeout: float) -> tuple[VersionStatus, ...]:
        return self._client.status(model, version, timeout=timeout)

    async def metadata(self, model: str, **options: Any) -> Metadata:
        return self._client.metadata(model, **options)

    async def predict(self, model: str, inputs: Mapping[str, Any], **options: Any) -> Prediction:
        return self._client.predict(model, inputs, **options)

    async def reload(self, config: Any, *, timeout: float) -> None:
        self._client.reload(config, timeout=timeout)

    async def close(self) -> None:
        self._client.close()

    async def __aenter__(self) -> AsyncFakeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
