"""Asyncio clients in a process of their own: each sends the same Predict again as soon as it is answered.

    python client.py TARGET ROWS CLIENTS OUT

Ends when its standard input ends. OUT is a NumPy file of float64 `[requests, 3]`: begin (``time.monotonic()``, which
is the same in all processes of a machine), seconds, and 1 for success.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np

_DEADLINE_SECONDS = 10.0
_START_SECONDS = 20.0


class Load:
    """Runs this file as a child process: ``with Load(...)``; `records` afterwards."""

    def __init__(self, target: str, rows: int, clients: int, out: Path) -> None:
        self._command = [sys.executable, __file__, target, str(rows), str(clients), str(out)]
        self._out = out
        self.records = np.zeros((0, 3))

    def __enter__(self) -> Load:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        # One line when the first answers are there.
        if not self._process.stdout.readline():
            raise SystemExit("the clients did not start")
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self.records = np.load(self._out)


async def _client(call: grpc.aio.UnaryUnaryMultiCallable, request: bytes, stop: threading.Event, records: list) -> None:
    while not stop.is_set():
        begun = time.monotonic()
        try:
            await call(request, timeout=_DEADLINE_SECONDS)
        except grpc.RpcError as error:
            records.append((begun, time.monotonic() - begun, 0.0))
            print(f"failed: {error.code().name} {error.details()}", file=sys.stderr)
        else:
            records.append((begun, time.monotonic() - begun, 1.0))


async def _run(target: str, rows: int, clients: int) -> list:
    from under_load import digits

    request = digits.request(rows)
    stop, records = threading.Event(), []
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        await call(request, timeout=_START_SECONDS, wait_for_ready=True)
        print("answered", flush=True)
        await asyncio.gather(*(_client(call, request, stop, records) for _ in range(clients)))
    return records


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    found = asyncio.run(_run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    np.save(sys.argv[4], np.array(found).reshape(-1, 3))
