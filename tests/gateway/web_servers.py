"""Web servers on loopback that behave badly, a resolver that lies, and a connector that never leaves the machine."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tornado.iostream import IOStream

from tfs_deploy.gateway.fetching import connection
from tfs_deploy.gateway.fetching.connection import CannotResolve, SocketAddress, socket_address

Reply = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PUBLIC = "93.184.216.34"
PUBLIC_SIX = "2606:2800:220:1:248:1893:25c8:1946"


def reply(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """Return a whole answer; `headers` are written with ``_`` for ``-``."""
    given = {"Content_Type": "image/png", "Content_Length": str(len(body)), **headers}
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in given.items() if value)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    """Return an answer that leads to `location`."""
    return reply(b"", status, Location=location)


class WebServer:
    """Answers by path with what `pages` says; keeps the heads of the requests it saw."""

    def __init__(self, pages: Mapping[str, Reply] | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.pages = dict(pages or {})
        self.heads: list[str] = []
        self.open = self.most_open = 0
        self._tls = tls
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> WebServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        until = asyncio.get_running_loop().time() + 60
        while self.open and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)
        assert not self.open, "a connection was left open"

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def paths(self) -> list[str]:
        return [head.split(" ")[1] for head in self.heads]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heads.append(head)
            page = self.pages.get(head.split(" ")[1], reply(b"", "404 Not Found"))
            if isinstance(page, bytes):
                writer.write(page)
                await writer.drain()
            else:
                await page(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.open -= 1


class Resolver:
    """Gives for each name its addresses, or, for a list of lists, the next of them each time; `asked` is the log."""

    def __init__(self, names: Mapping[str, Sequence[Any]]) -> None:
        self._names = names
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[SocketAddress]:
        self.asked.append(host)
        found = self._names.get(host)
        if found is None:
            try:
                ipaddress.ip_address(host)
            except ValueError:
                raise CannotResolve(host) from None
            found = [host]
        if found and not isinstance(found[0], str):
            found = found[min(self.asked.count(host), len(found)) - 1]
        return [socket_address(address, port) for address in found]


class Wires:
    """Connects to loopback only: what goes to a public address ends at `server`; `places` is where it was to go."""

    def __init__(self, server: WebServer | None = None) -> None:
        self._server = server
        self.places: list[str] = []

    async def __call__(self, where: SocketAddress, *, tls: ssl.SSLContext | None, name: str, buffer: int) -> IOStream:
        self.places.append(f"{where.address}:{where.port}")
        if where.address.is_loopback:
            return await connection.connect(where, tls=tls, name=name, buffer=buffer)
        if self._server is None:
            raise OSError("this test has no such server")
        return await connection.connect(
            socket_address("127.0.0.1", self._server.port), tls=tls, name=name, buffer=buffer
        )


def certificate(directory: Path, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a server that is `names` by its certificate, and of a client that trusts just that one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = directory / "certificate.pem"
    plain = serialization.NoEncryption()
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + built.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cadata=built.public_bytes(serialization.Encoding.PEM).decode())
