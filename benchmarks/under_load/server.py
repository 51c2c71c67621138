"""The embedded model server as a child process."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfs_deploy.errors import TFSDeployError
from tfs_deploy.serving.client import connect

_START_SECONDS = 60.0


@dataclass(frozen=True)
class Started:
    """A server that answers; `seconds` from the start of the process until its port was open."""

    target: str
    pid: int
    seconds: float

    def resident_mib(self) -> float:
        """Return the memory of the process, MiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("no VmRSS")


@contextlib.contextmanager
def model_server(*flags: str) -> Iterator[Started]:
    """Start the server, wait until its port is open, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tfs_deploy.modelserver", f"--port={port}", "--grpc_max_threads=128", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TFS_DEPLOY_END_WITH_PARENT": str(os.getpid())},
    )
    try:
        while not _open(port):
            if process.poll() is not None or time.perf_counter() - begun > _START_SECONDS:
                raise SystemExit("the model server did not start")
            time.sleep(0.005)
        yield Started(f"127.0.0.1:{port}", process.pid, time.perf_counter() - begun)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def put(model: Path, base: Path, version: int) -> None:
    """Copy a SavedModel beside `base` and rename it into place, as a publish does."""
    base.mkdir(parents=True, exist_ok=True)
    staged = base.parent / f"staged-{version}"
    shutil.copytree(model, staged)
    staged.rename(base / str(version))


def wait_for(target: str, model: str, version: int, state: str, seconds: float = 30.0) -> None:
    """Return when `version` is in `state`."""
    deadline = time.monotonic() + seconds
    with connect(target) as client:
        while True:
            try:
                states = {row.version: row.state.value for row in client.status(model, timeout=5.0)}
            except TFSDeployError:
                states = {}
            if states.get(version) == state:
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"version {version} is {states.get(version)}, not {state}, after {seconds:g} s")
            time.sleep(0.02)


def _open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
