"""Asyncio HTTP clients: each sends the same POST again as soon as it is answered; success is the status 200."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from under_load.clients import Clients, ask_until_told


class HTTPLoad(Clients):
    """`clients` of them, each with a connection of its own to `address` (HOST:PORT)."""

    def __init__(self, address: str, path: str, body: bytes, clients: int, out: Path) -> None:
        file = out.resolve().with_suffix(".body")
        file.write_bytes(body)
        super().__init__("http_client", out, address, path, str(file), str(clients))


class _Client(asyncio.Protocol):
    """One connection; below asyncio's streams, so that the clients leave the processors to what is measured."""

    def __init__(self, request: bytes, stop: threading.Event, records: list) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._request = request
        self._stop = stop
        self._records = records
        self._got = b""
        self._begun = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, _, body = self._got.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if length is None or len(body) < int(length[1]):
            return
        self._note(self._got[9:12] == b"200")
        if self._stop.is_set():
            self._transport.close()
        else:
            self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if self._begun:
            print(f"failed: {error!r}", file=sys.stderr)
            self._note(False)
        self.ended.set_result(None)

    def _ask(self) -> None:
        self._got = b""
        self._begun = time.monotonic()
        self._transport.write(self._request)

    def _note(self, good: bool) -> None:
        self._records.append((self._begun, time.monotonic() - self._begun, float(good)))
        self._begun = 0.0


async def _client(host: str, port: int, request: bytes, stop: threading.Event, records: list) -> None:
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        try:
            _, client = await loop.create_connection(lambda: _Client(request, stop, records), host, port)
        except OSError as error:
            print(f"failed: {error!r}", file=sys.stderr)
            records.append((time.monotonic(), 0.0, 0.0))
            await asyncio.sleep(0.1)
        else:
            await client.ended


async def _run(
    address: str, path: str, body: bytes, clients: int, stop: threading.Event, answered: Callable[[], None]
) -> list:
    host, port = address.split(":")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    records: list = []
    tasks = [
        asyncio.ensure_future(_client(host, int(port), head.encode() + body, stop, records)) for _ in range(clients)
    ]
    while not records:
        await asyncio.sleep(0.01)
    answered()
    await asyncio.gather(*tasks)
    return records


if __name__ == "__main__":
    _, out_file, where, url_path, body_file, count = sys.argv
    content = Path(body_file).read_bytes()
    ask_until_told(out_file, lambda stop, answered: _run(where, url_path, content, int(count), stop, answered))
