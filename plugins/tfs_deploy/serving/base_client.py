"""The blocking and the asyncio client of a model server, without the transport: `client` adds gRPC."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy.typing as npt

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.serving import rpc
from tfs_deploy.serving.busy_retry import BusyRetry
from tfs_deploy.serving.replies import Metadata, Prediction, VersionStatus
from tfs_deploy.serving.rpc_calls import Address, RpcCalls, run_blocking
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE

# What the methods return: the value itself, or a coroutine of it.
Statuses = TypeVar("Statuses")
MetadataOf = TypeVar("MetadataOf")
PredictionOf = TypeVar("PredictionOf")
Done = TypeVar("Done")


class BaseClient(ABC, Generic[Statuses, MetadataOf, PredictionOf, Done]):
    """The methods of every client of a model server, once for blocking and for asyncio clients.

    Every method takes its `timeout` in seconds and raises errors of `tfs_deploy.errors` only; see `RpcCalls`. An
    operation that the server refuses because it is busy is repeated for `busy_timeout` seconds, each time with the
    whole `timeout`.
    """

    def __init__(self, target: str, clock: Clock | None = None, *, busy_timeout: float = 0.0) -> None:
        self._target = target
        self._clock = clock or SystemClock()
        self._calls = RpcCalls(target, self._send, self._clock)
        self._busy_retry = BusyRetry(busy_timeout, self._clock, self._pause)

    @abstractmethod
    async def _send(self, method: rpc.Method, request: bytes, seconds: float) -> bytes:
        """Make one RPC; raise CallFailed. A blocking client does not suspend here."""

    @abstractmethod
    async def _pause(self, seconds: float) -> None:
        """Let `seconds` pass. A blocking client does not suspend here."""

    @abstractmethod
    def _run(self, operation: Coroutine[Any, Any, Any]) -> Any:
        """Run `operation`, or return it for the event loop."""

    @property
    def target(self) -> str:
        """Return the address, ``host:port``."""
        return self._target

    @property
    def closed(self) -> bool:
        """Tell whether the client was closed."""
        return self._calls.closed

    def status(
        self, model: str, version: int | None = None, *, timeout: float, busy_timeout: float | None = None
    ) -> Statuses:
        """Return the known versions, newest first; none for an unknown model or version.

        `busy_timeout` replaces that of the client; 0 for a caller that polls anyway.
        """
        address = Address(model, version)
        operation = self._busy_retry.run(lambda: self._calls.status(address, timeout), seconds=busy_timeout)
        statuses: Statuses = self._run(operation)
        return statuses

    def metadata(
        self, model: str, *, version: int | None = None, label: str | None = None, timeout: float
    ) -> MetadataOf:
        """Return the signatures of `model`: its highest AVAILABLE version unless a version or label is named."""
        address = Address(model, version, label)
        metadata: MetadataOf = self._run(self._busy_retry.run(lambda: self._calls.metadata(address, timeout)))
        return metadata

    def predict(
        self,
        model: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] = (),
        timeout: float,
    ) -> PredictionOf:
        """Compare `inputs` with the signature, send them, return the answer; `outputs` names the wanted ones."""
        address = Address(model, version, label)
        operation = self._busy_retry.run(lambda: self._calls.predict(address, inputs, signature, outputs, timeout))
        prediction: PredictionOf = self._run(operation)
        return prediction

    def reload(self, config: Any, *, timeout: float, before_attempt: Callable[[], object] | None = None) -> Done:
        """Replace the server's whole configuration by the ModelServerConfig `config`.

        `before_attempt` is called before every attempt; an error that it raises passes, and nothing is sent. An
        attempt that timed out is not repeated, because the server may still carry it out.
        """

        async def reload() -> None:
            if before_attempt is not None:
                before_attempt()
            await self._calls.reload(config, timeout)

        done: Done = self._run(self._busy_retry.run(reload))
        return done


class ServingClient(BaseClient[tuple[VersionStatus, ...], Metadata, Prediction, None]):
    """A client of one model server whose methods block; the tests have one in memory."""

    def _run(self, operation: Coroutine[Any, Any, Any]) -> Any:
        return run_blocking(operation)

    async def _pause(self, seconds: float) -> None:
        self._clock.sleep(seconds)

    def close(self) -> None:
        """Close the connection; the client cannot be used after this."""
        self._calls.closed = True

    def __enter__(self: Client) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncServingClient(
    BaseClient[
        Coroutine[Any, Any, tuple[VersionStatus, ...]],
        Coroutine[Any, Any, Metadata],
        Coroutine[Any, Any, Prediction],
        Coroutine[Any, Any, None],
    ]
):
    """A client of one model server whose methods are coroutines."""

    def _run(self, operation: Coroutine[Any, Any, Any]) -> Any:
        return operation

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the connection; the client cannot be used after this."""
        self._calls.closed = True

    async def __aenter__(self: AsyncioClient) -> AsyncioClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


Client = TypeVar("Client", bound=ServingClient)
AsyncioClient = TypeVar("AsyncioClient", bound=AsyncServingClient)
