"""The asyncio client for one model server: the methods of `ServingClient` as coroutines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio
import numpy.typing as npt

from tfs_deploy.clock import Clock, Deadline, SystemClock
from tfs_deploy.errors import TFSDeployError
from tfs_deploy.serving import channel, rpc
from tfs_deploy.serving.group_settings import TLSOptions
from tfs_deploy.serving.protocol import Metadata, Prediction, VersionStatus
from tfs_deploy.serving.rpc_calls import Address, Call, Exchange, RpcCalls, call_error, check_timeout, closed_error
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE

T = TypeVar("T")


def connect(target: str, *, tls: TLSOptions | None = None) -> AsyncModelServerClient:
    """Return a client for the model server at `target` (``host:port``); nothing is sent before the first call."""
    return AsyncModelServerClient(target, tls=tls)


class AsyncModelServerClient:
    """One gRPC channel on the event loop of the first call; belongs to that loop."""

    def __init__(self, target: str, *, tls: TLSOptions | None = None, clock: Clock | None = None) -> None:
        self._target = channel.check_target(target)
        self._clock = clock or SystemClock()
        self._exchanges = RpcCalls(target)
        self._closed = False
        self._options = channel.options(tls)
        self._credentials = None if tls is None else channel.credentials(tls)
        self._opened: grpc.aio.Channel | None = None
        self._calls: dict[rpc.Method, Any] = {}

    @property
    def target(self) -> str:
        """Return the address, ``host:port``."""
        return self._target

    async def status(self, model: str, version: int | None = None, *, timeout: float) -> tuple[VersionStatus, ...]:
        """Return the known versions, newest first; none for an unknown model or version."""
        return await self._run(self._exchanges.status(Address(model, version)), timeout)

    async def metadata(
        self, model: str, *, version: int | None = None, label: str | None = None, timeout: float
    ) -> Metadata:
        """Return what `model` (its highest AVAILABLE version unless a version or label is named) takes and gives."""
        return await self._run(self._exchanges.metadata(Address(model, version, label)), timeout)

    async def predict(
        self,
        model: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] = (),
        timeout: float,
    ) -> Prediction:
        """Compare `inputs` with the signature, send them, return the answer; `outputs` names the wanted ones."""
        address = Address(model, version, label)
        return await self._run(self._exchanges.predict(address, inputs, signature, outputs), timeout)

    async def reload(self, config: Any, *, timeout: float) -> None:
        """Replace the server's whole configuration by the ModelServerConfig `config`."""
        await self._run(self._exchanges.reload(config), timeout)

    async def close(self) -> None:
        """Let the connection go; the client cannot be used after this."""
        self._closed = True
        if self._opened is not None:
            await self._opened.close(None)

    async def __aenter__(self) -> AsyncModelServerClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, exchange: Exchange[T], timeout: float) -> T:
        deadline = Deadline.after(check_timeout(timeout), self._clock)
        try:
            call = next(exchange)
            while True:
                try:
                    reply = await self._invoke(call, deadline, timeout)
                except TFSDeployError as error:
                    call = exchange.throw(error)
                else:
                    call = exchange.send(reply)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _invoke(self, call: Call, deadline: Deadline, timeout: float) -> bytes:
        if self._closed:
            raise closed_error(self._target, call)
        remaining = deadline.remaining()
        if remaining <= 0:
            raise call_error(self._target, call, "DEADLINE_EXCEEDED", "", timeout)
        try:
            reply: bytes = await self._method(call.method)(call.request, timeout=remaining, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            raise call_error(self._target, call, error.code().name, error.details() or "", timeout) from error
        return reply

    def _method(self, method: rpc.Method) -> Any:
        """Return the callable for `method`; the channel is opened late, on the loop that runs the call."""
        if self._opened is None:
            if self._credentials is None:
                self._opened = grpc.aio.insecure_channel(self._target, options=self._options)
            else:
                self._opened = grpc.aio.secure_channel(self._target, self._credentials, options=self._options)
        if method not in self._calls:
            self._calls[method] = self._opened.unary_unary(method.path, None, None)
        return self._calls[method]
