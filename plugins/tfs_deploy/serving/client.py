"""The gRPC clients of one model server: the form of a target, TLS credentials, channel options, and the calls."""

from __future__ import annotations

import re
from typing import Any

import grpc
import grpc.aio

from tfs_deploy import __version__
from tfs_deploy.clock import Clock
from tfs_deploy.errors import InvalidInput
from tfs_deploy.serving import rpc
from tfs_deploy.serving.base_client import AsyncServingClient, ServingClient
from tfs_deploy.serving.group import TLSOptions
from tfs_deploy.serving.rpc_calls import CallFailed

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]@]+):(?P<port>[0-9]{1,5})")
_UNIX = re.compile(r"unix:(//)?/?[^\s:]+")


def check_target(target: str) -> str:
    """Return `target` if it is ``host:port`` or ``unix:/path``; raise InvalidInput otherwise."""
    remedy = "Give host:port of the gRPC port, e.g. 'serving-0:8500' or '[::1]:8500', or 'unix:/path/to/socket'."
    if not isinstance(target, str):
        raise InvalidInput(f"The target {target!r} is not a str.", remedy)
    if _UNIX.fullmatch(target):
        return target
    match = _HOST_PORT.fullmatch(target)
    if not match:
        raise InvalidInput(f"The target {target!r} is not an address of a model server.", remedy)
    if not 0 < int(match["port"]) < 65536:
        raise InvalidInput(f"The target {target!r} has the port {match['port']}.", "Use a port from 1 to 65535.")
    return target


def options(tls: TLSOptions | None) -> list[tuple[str, str | int]]:
    """Return the channel arguments.

    Messages are not limited here, the server's limit is 2 GiB (contract 14). Pings are further apart than the 5 minutes
    below which a server answers ``too_many_pings``. A server that was restarted is tried again within 2 seconds
    (gRPC's own back-off grows to 2 minutes), by each client on its own. gRPC's "minimum back-off" is the time limit of
    one attempt to connect, TLS included.
    """
    arguments: list[tuple[str, str | int]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.keepalive_time_ms", 360_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 10_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.primary_user_agent", f"tfs-deploy/{__version__}"),
    ]
    if tls is not None and tls.server_name:
        arguments.append(("grpc.ssl_target_name_override", tls.server_name))
    return arguments


def credentials(tls: TLSOptions) -> grpc.ChannelCredentials:
    """Return the channel credentials for `tls`; raise InvalidInput where they cannot be used."""
    if (tls.private_key is None) != (tls.certificate_chain is None):
        raise InvalidInput(
            "A client certificate needs both a private key and a certificate chain, but only one was given.",
            "Give both, or neither.",
        )
    parts = {
        "root certificates": tls.root_certificates,
        "private key": tls.private_key,
        "certificate chain": tls.certificate_chain,
    }
    for name, pem in parts.items():
        if pem is not None and b"-----BEGIN " not in pem:
            raise InvalidInput(f"The TLS {name} are not PEM.", "Give the bytes of a file with '-----BEGIN' lines.")
    return grpc.ssl_channel_credentials(tls.root_certificates, tls.private_key, tls.certificate_chain)


def connect(target: str, *, tls: TLSOptions | None = None, busy_timeout: float = 0.0) -> ModelServerClient:
    """Return a client for the model server at `target` (``host:port``); nothing is sent before the first call.

    An operation is repeated for `busy_timeout` seconds while the server answers that it is busy.
    """
    return ModelServerClient(target, tls=tls, busy_timeout=busy_timeout)


def connect_aio(target: str, *, tls: TLSOptions | None = None, busy_timeout: float = 0.0) -> AsyncModelServerClient:
    """Return an asyncio client for the model server at `target`; see `connect`."""
    return AsyncModelServerClient(target, tls=tls, busy_timeout=busy_timeout)


class ModelServerClient(ServingClient):
    """A `ServingClient` over one gRPC channel; may be shared between threads."""

    def __init__(
        self, target: str, *, tls: TLSOptions | None = None, clock: Clock | None = None, busy_timeout: float = 0.0
    ) -> None:
        super().__init__(check_target(target), clock, busy_timeout=busy_timeout)
        arguments = options(tls)
        if tls is None:
            self._channel = grpc.insecure_channel(target, options=arguments)
        else:
            self._channel = grpc.secure_channel(target, credentials(tls), options=arguments)
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

    def __init__(
        self, target: str, *, tls: TLSOptions | None = None, clock: Clock | None = None, busy_timeout: float = 0.0
    ) -> None:
        super().__init__(check_target(target), clock, busy_timeout=busy_timeout)
        self._options = options(tls)
        self._credentials = None if tls is None else credentials(tls)
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
