"""Asyncio HTTP clients in a process of their own: each sends the same POST again as soon as it is answered.

    python http_client.py HOST:PORT PATH BODY_FILE CLIENTS OUT

Ends when its standard input ends; OUT is that of `client.py`: begin, seconds, and 1 for status 200.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np


class HTTPLoad:
    """Runs this file as a child process: ``with HTTPLoad(...)``; `records` afterwards."""

    def __init__(self, address: str, path: str, body: bytes, clients: int, out: Path) -> None:
        self._body = out.with_suffix(".body")
        self._body.write_bytes(body)
        self._command = [sys.executable, __file__, address, path, str(self._body), str(clients), str(out)]
        self._out = out
        self.records = np.zeros((0, 3))

    def __enter__(self) -> HTTPLoad:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise SystemExit("the clients did not start")
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self.records = np.load(self._out)


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


async def _run(address: str, path: str, body: bytes, clients: int) -> list:
    host, port = address.split(":")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    stop, records = threading.Event(), []
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    tasks = [
        asyncio.ensure_future(_client(host, int(port), head.encode() + body, stop, records)) for _ in range(clients)
    ]
    while not records:
        await asyncio.sleep(0.01)
    print("answered", flush=True)
    await asyncio.gather(*tasks)
    return records


if __name__ == "__main__":
    found = asyncio.run(_run(sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_bytes(), int(sys.argv[4])))
    np.save(sys.argv[5], np.array(found).reshape(-1, 3))
