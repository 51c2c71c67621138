"""Clients in a process of their own: how they are started and ended, and how what they saw comes back.

What they saw is a NumPy file of float64 `[requests, 3]`: begin (``time.monotonic()``, which is the same in all
processes of a machine), seconds, and 1 for success.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np

_BENCHMARKS = Path(__file__).resolve().parents[1]
_END_SECONDS = 60.0

# Asks until the event is set, tells when the first answers are there, and returns the records.
Ask = Callable[[threading.Event, Callable[[], None]], Coroutine[Any, Any, list]]


class Clients:
    """Runs a module of this package, which calls `ask_until_told`: ``with Clients(...)``; `records` afterwards."""

    def __init__(self, module: str, out: Path, *arguments: str) -> None:
        self._command = [sys.executable, "-m", f"under_load.{module}", str(out.resolve()), *arguments]
        self._out = out
        self.records = np.zeros((0, 3))

    def __enter__(self) -> Clients:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_BENCHMARKS)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise SystemExit("the clients did not start")
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_END_SECONDS)
        self.records = np.load(self._out)


def ask_until_told(out: str, ask: Ask) -> None:
    """In the child process: ask until standard input ends, and write the records to `out`."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    records = asyncio.run(ask(stop, lambda: print("answered", flush=True)))
    np.save(out, np.array(records).reshape(-1, 3))
