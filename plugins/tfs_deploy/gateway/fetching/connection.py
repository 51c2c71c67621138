"""Resolve a host name away from the event loop, and connect to one checked address by its number."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from tornado.iostream import IOStream, SSLIOStream

from tfs_deploy.gateway.fetching.rules import Address


class CannotResolve(Exception):
    """The host name does not exist, or the resolver does not answer."""


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """One IP address and port, in the form that sockets take."""

    address: Address
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        """Return the socket's family."""
        return socket.AF_INET6 if self.address.version == 6 else socket.AF_INET

    @property
    def sockaddr(self) -> tuple[str, int]:
        """Return the address for `connect`; numeric, so that nothing is resolved again."""
        return (str(self.address), self.port)


class Resolve(Protocol):
    """Resolves host names."""

    async def __call__(self, host: str, port: int) -> Sequence[SocketAddress]:
        """Return the socket addresses of `host`, a name or an address in any spelling; raise CannotResolve."""


class SystemResolver:
    """The machine's resolver, in `threads` threads of its own, so that a name server that hangs blocks nothing else."""

    def __init__(self, threads: int = 16) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="resolve")

    async def __call__(self, host: str, port: int) -> list[SocketAddress]:
        """Return the socket addresses of `host`; raise CannotResolve."""
        loop = asyncio.get_running_loop()
        try:
            addresses = await loop.run_in_executor(self._threads, _resolve, host, port)
        except (OSError, UnicodeError) as error:
            raise CannotResolve(str(error)) from error
        return [socket_address(sockaddr[0], port) for *_, sockaddr in addresses]

    def close(self) -> None:
        """Stop the threads, without waiting for lookups."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def socket_address(address: str, port: int) -> SocketAddress:
    """Return the place of a numeric `address`."""
    return SocketAddress(ipaddress.ip_address(address), port)


def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, int, int, str, tuple[str, int]]]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[return-value]


class Connect(Protocol):
    """Opens connections."""

    async def __call__(
        self, socket_address: SocketAddress, *, tls: ssl.SSLContext | None, name: str, buffer: int
    ) -> IOStream:
        """Return a stream to `socket_address`, after the handshake where `tls` is given; raise OSError."""


async def connect(socket_address: SocketAddress, *, tls: ssl.SSLContext | None, name: str, buffer: int) -> IOStream:
    """Return a connected stream; `name` is checked in the certificate, `buffer` bounds the unread bytes."""
    raw = socket.socket(socket_address.family, socket.SOCK_STREAM)
    raw.setblocking(False)
    if tls is None:
        stream = IOStream(raw, max_buffer_size=buffer)
    else:
        stream = SSLIOStream(raw, max_buffer_size=buffer, ssl_options=tls)
    try:
        await stream.connect(socket_address.sockaddr, server_hostname=name if tls else None)
    except BaseException:
        # After a cancellation too: a stream that is registered with the loop is never closed by itself.
        stream.close()
        raise
    return stream
