"""The blocking and the asyncio client for one model server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
import numpy.typing as npt

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.serving import channel, rpc
from tfs_deploy.serving.group_settings import TLSOptions
from tfs_deploy.serving.protocol import Metadata, Prediction, ServingClient, VersionState, VersionStatus
from tfs_deploy.serving.rpc_calls import Address, CallFailed, RpcCalls, run_blocking
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE

__all__ = [
    "AsyncModelServerClient",
    "Metadata",
    "ModelServerClient",
    "Prediction",
    "ServingClient",
    "TLSOptions",
    "VersionState",
    "VersionStatus",
    "connect",
    "connect_aio",
]

# What the methods return: the value itself, or a coroutine of it.
Statuses = TypeVar("Statuses")
MetadataOf = TypeVar("MetadataOf")
PredictionOf = TypeVar("PredictionOf")
Done = TypeVar("Done")


def connect(target: str, *, tls: TLSOptions | None = None) -> ModelServerClient:
    """Return a client for the model server at `target` (``host:port``); nothing is sent before the first call."""
    return ModelServerClient(target, tls=tls)


def connect_aio(target: str, *, tls: TLSOptions | None = None) -> AsyncModelServerClient:
    """Return an asyncio client for the model server at `target`; nothing is sent before the first call."""
    return AsyncModelServerClient(target, tls=tls)


class BaseClient(ABC, Generic[Statuses, MetadataOf, PredictionOf, Done]):
    """The methods of `ServingClient`, once for the blocking and the asyncio clients; see `RpcCalls`."""

    def __init__(self, target: str, clock: Clock | None = None) -> None:
        self._target = target
        self._calls = RpcCalls(target, self._send, clock or SystemClock())

    @abstractmethod
    async def _send(self, method: rpc.Method, request: bytes, seconds: float) -> bytes:
        """Make one RPC; raise CallFailed. A blocking client does not suspend here."""

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

    def status(self, model: str, version: int | None = None, *, timeout: float) -> Statuses:
        """Return the known versions, newest first; none for an unknown model or version."""
        statuses: Statuses = self._run(self._calls.status(Address(model, version), timeout))
        return statuses

    def metadata(
        self, model: str, *, version: int | None = None, label: str | None = None, timeout: float
    ) -> MetadataOf:
        """Return the signatures of `model`: its highest AVAILABLE version unless a version or label is named."""
        metadata: MetadataOf = self._run(self._calls.metadata(Address(model, version, label), timeout))
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
        prediction: PredictionOf = self._run(self._calls.predict(address, inputs, signature, outputs, timeout))
        return prediction

    def reload(self, config: Any, *, timeout: float) -> Done:
        """Replace the server's whole configuration by the ModelServerConfig `config`."""
        done: Done = self._run(self._calls.reload(config, timeout))
        return done


class BlockingClient(BaseClient[tuple[VersionStatus, ...], Metadata, Prediction, None]):
    """A `ServingClient`; `_send` blocks."""

    def _run(self, operation: Coroutine[Any, Any, Any]) -> Any:
        return run_blocking(operation)

    def close(self) -> None:
        """Close the connection; the client cannot be used after this."""
        self._calls.closed = True

    def __enter__(self: Client) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(
    BaseClient[
        Coroutine[Any, Any, tuple[VersionStatus, ...]],
        Coroutine[Any, Any, Metadata],
        Coroutine[Any, Any, Prediction],
        Coroutine[Any, Any, None],
    ]
):
    """The methods of `ServingClient` as coroutines."""

    def _run(self, operation: Coroutine[Any, Any, Any]) -> Any:
        return operation

    async def close(self) -> None:
        """Close the connection; the client cannot be used after this."""
        self._calls.closed = True

    async def __aenter__(self: AsyncioClient) -> AsyncioClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


Client = TypeVar("Client", bound=BlockingClient)
AsyncioClient = TypeVar("AsyncioClient", bound=AsyncClient)


class ModelServerClient(BlockingClient):
    """A `ServingClient` over one gRPC channel; may be shared between threads."""

    def __init__(self, target: str, *, tls: TLSOptions | None = None, clock: Clock | None = None) -> None:
        super().__init__(channel.check_target(target), clock)
        arguments = channel.options(tls)
        if tls is None:
            self._channel = grpc.insecure_channel(target, options=arguments)
        else:
            self._channel = grpc.secure_channel(target, channel.credentials(tls), options=arguments)
        # Bytes in, bytes out: `RpcCalls` reads messages that protobuf would refuse.
        self._methods = {method: self._channel.unary_unary(method.path, None, None) for method in rpc.METHODS}

    def close(self) -> None:
        """Close the connection; the client cannot be used after this."""
        super().close()
        self._channel.close()

    async def _send(self, method: rpc.Method, request: bytes, seconds: float) -> bytes:
        try:
            # Without wait_for_ready: a server that is not there is an error at once, not at the deadline.
            reply: bytes = self._methods[method](request, timeout=seconds, wait_for_ready=False)
        except grpc.RpcError as error:
            raise CallFailed(error.code().name, error.details() or "") from error
        return reply


class AsyncModelServerClient(AsyncClient):
    """One gRPC channel on the event loop of the first call; belongs to that loop."""

    def __init__(self, target: str, *, tls: TLSOptions | None = None, clock: Clock | None = None) -> None:
        super().__init__(channel.check_target(target), clock)
        self._options = channel.options(tls)
        self._credentials = None if tls is None else channel.credentials(tls)
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[rpc.Method, Any] = {}

    async def close(self) -> None:
        """Close the connection; the client cannot be used after this."""
        await super().close()
        if self._channel is not None:
            await self._channel.close(None)

    async def _send(self, method: rpc.Method, request: bytes, seconds: float) -> bytes:
        try:
            reply: bytes = await self._callable(method)(request, timeout=seconds, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(error.code().name, error.details() or "") from error
        return reply

    def _callable(self, method: rpc.Method) -> Any:
        """Return the callable for `method`; the channel is opened late, on the loop that runs the call."""
        if self._channel is None:
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self._target, options=self._options)
            else:
                self._channel = grpc.aio.secure_channel(self._target, self._credentials, options=self._options)
        if method not in self._methods:
            self._methods[method] = self._channel.unary_unary(method.path, None, None)
        return self._methods[method]
