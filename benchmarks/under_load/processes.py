"""Gateways and other programs of the gateway's benchmark as child processes."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Process:
    """One that serves at `address`."""

    address: str
    pid: int

    def resident_kib(self) -> int:
        """Return the memory of the process, KiB."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+)", text, re.M)[1])


@contextlib.contextmanager
def program(name: str, *arguments: str) -> Iterator[Process]:
    """Run a file of this directory that prints its address and ends with its standard input."""
    process = subprocess.Popen(
        [sys.executable, str(_HERE / name), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Process(process.stdout.readline().strip(), process.pid)
    finally:
        process.stdin.close()
        process.wait(30)


@contextlib.contextmanager
def gateway(work: Path, *targets: str, **model: Any) -> Iterator[Process]:
    """Run a gateway for the digits model on `targets`."""
    config = {
        "replicas": list(targets),
        "listen": {"port": 0},
        "limits": {"drain_seconds": 2},
        "models": {"digits": {"outputs": ["probabilities"], **model}},
    }
    file = work / "gateway.yaml"
    file.write_text(json.dumps(config))
    log = (work / "gateway.log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "tfs_deploy.gateway", "--config", str(file)],
        stdout=(work / "access.log").open("w"),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            log.write(line)
            if found := re.search(r"http://(127\.0\.0\.1:\d+)", line):
                break
        else:
            raise SystemExit("the gateway did not start")
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=log)
        yield Process(found[1], process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        drain.wait(10)
