"""The gRPC clients of one model server."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from tfs_deploy.clock import Clock
from tfs_deploy.serving import channel, rpc
from tfs_deploy.serving.base_client import AsyncServingClient, ServingClient
from tfs_deploy.serving.group_settings import TLSOptions
from tfs_deploy.serving.rpc_calls import CallFailed


def connect(target: str, *, tls: TLSOptions | None = None) -> ModelServerClient:
    """Return a client for the model server at `target` (``host:port``); nothing is sent before the first call."""
    return ModelServerClient(target, tls=tls)


def connect_aio(target: str, *, tls: TLSOptions | None = None) -> AsyncModelServerClient:
    """Return an asyncio client for the model server at `target`; nothing is sent before the first call."""
    return AsyncModelServerClient(target, tls=tls)


class ModelServerClient(ServingClient):
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


class AsyncModelServerClient(AsyncServingClient):
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
