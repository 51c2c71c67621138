"""The synchronous client for one model server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
import numpy.typing as npt

from tfs_deploy.clock import Clock, Deadline, SystemClock
from tfs_deploy.errors import TFSDeployError
from tfs_deploy.serving import channel, rpc
from tfs_deploy.serving.group_settings import TLSOptions
from tfs_deploy.serving.protocol import (
    Metadata,
    Prediction,
    ServingClient,
    VersionState,
    VersionStatus,
)
from tfs_deploy.serving.rpc_calls import Address, Call, Exchange, RpcCalls, call_error, check_timeout, closed_error
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE

__all__ = [
    "Metadata",
    "ModelServerClient",
    "Prediction",
    "ServingClient",
    "TLSOptions",
    "VersionState",
    "VersionStatus",
    "connect",
]

T = TypeVar("T")


def connect(target: str, *, tls: TLSOptions | None = None) -> ModelServerClient:
    """Return a client for the model server at `target` (``host:port``); nothing is sent before the first call."""
    return ModelServerClient(target, tls=tls)


class ModelServerClient:
    """A `ServingClient` over one gRPC channel; may be shared between threads."""

    def __init__(self, target: str, *, tls: TLSOptions | None = None, clock: Clock | None = None) -> None:
        self._target = channel.check_target(target)
        self._clock = clock or SystemClock()
        self._exchanges = RpcCalls(target)
        self._closed = False
        arguments = channel.options(tls)
        if tls is None:
            self._channel = grpc.insecure_channel(target, options=arguments)
        else:
            self._channel = grpc.secure_channel(target, channel.credentials(tls), options=arguments)
        # Bytes in, bytes out: messages are read by `exchange`, which survives what protobuf refuses.
        self._calls = {method: self._channel.unary_unary(method.path, None, None) for method in rpc.METHODS}

    @property
    def target(self) -> str:
        """Return the address, ``host:port``."""
        return self._target

    def status(self, model: str, version: int | None = None, *, timeout: float) -> tuple[VersionStatus, ...]:
        """Return the known versions, newest first; none for an unknown model or version."""
        return self._run(self._exchanges.status(Address(model, version)), timeout)

    def metadata(self, model: str, *, version: int | None = None, label: str | None = None, timeout: float) -> Metadata:
        """Return what `model` (its highest AVAILABLE version unless a version or label is named) takes and gives."""
        return self._run(self._exchanges.metadata(Address(model, version, label)), timeout)

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
    ) -> Prediction:
        """Compare `inputs` with the signature, send them, return the answer; `outputs` names the wanted ones."""
        address = Address(model, version, label)
        return self._run(self._exchanges.predict(address, inputs, signature, outputs), timeout)

    def reload(self, config: Any, *, timeout: float) -> None:
        """Replace the server's whole configuration by the ModelServerConfig `config`."""
        self._run(self._exchanges.reload(config), timeout)

    def close(self) -> None:
        """Let the connection go; the client cannot be used after this."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> ModelServerClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, exchange: Exchange[T], timeout: float) -> T:
        deadline = Deadline.after(check_timeout(timeout), self._clock)
        try:
            call = next(exchange)
            while True:
                try:
                    reply = self._invoke(call, deadline, timeout)
                except TFSDeployError as error:
                    call = exchange.throw(error)
                else:
                    call = exchange.send(reply)
        except StopIteration as done:
            result: T = done.value
            return result

    def _invoke(self, call: Call, deadline: Deadline, timeout: float) -> bytes:
        if self._closed:
            raise closed_error(self._target, call)
        remaining = deadline.remaining()
        if remaining <= 0:
            raise call_error(self._target, call, "DEADLINE_EXCEEDED", "", timeout)
        try:
            # Without wait_for_ready: a server that is not there is told at once, not at the deadline.
            reply: bytes = self._calls[call.method](call.request, timeout=remaining, wait_for_ready=False)
        except grpc.RpcError as error:
            raise call_error(self._target, call, error.code().name, error.details() or "", timeout) from error
        return reply
