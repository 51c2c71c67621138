"""Asyncio gRPC clients: each sends the same Predict again as soon as it is answered."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc

from under_load import digits
from under_load.clients import Clients, ask_until_told

_DEADLINE_SECONDS = 10.0
_START_SECONDS = 20.0


class Load(Clients):
    """`clients` of them, each with `rows` images per request."""

    def __init__(self, target: str, rows: int, clients: int, out: Path) -> None:
        super().__init__("client", out, target, str(rows), str(clients))


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


async def _run(target: str, rows: int, clients: int, stop: threading.Event, answered: Callable[[], None]) -> list:
    request = digits.request(rows)
    records: list = []
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        await call(request, timeout=_START_SECONDS, wait_for_ready=True)
        answered()
        await asyncio.gather(*(_client(call, request, stop, records) for _ in range(clients)))
    return records


if __name__ == "__main__":
    _, out_file, address, row_count, count = sys.argv
    ask_until_told(out_file, lambda stop, answered: _run(address, int(row_count), int(count), stop, answered))
