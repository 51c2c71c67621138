"""An embedded model server as a child process."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tfs_deploy.errors import ModelServerError, TFSDeployError, Unreachable
from tfs_deploy.serving.client import connect

# The flags of the deploy protocol (contract 17). A failed load is repeated once, after a second: a broken version is
# reported soon.
FLAGS = (
    "--allow_version_labels_for_unavailable_models=true",
    "--file_system_poll_wait_seconds=1",
    "--num_load_threads=2",
    "--num_unload_threads=1",
    "--grpc_max_threads=64",
    "--max_num_load_retries=1",
    "--load_retry_interval_micros=1000000",
)
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
# Another program may take the free port before the server does.
_ATTEMPTS = 3


@contextlib.contextmanager
def model_server(startup_config: Path, log: Path, *, disk: Path | None = None) -> Iterator[str]:
    """Serve the models of `startup_config`, an empty config if there is no such file, and yield host:port.

    `disk` is the working directory of the server.
    """
    if not startup_config.exists():
        startup_config.parent.mkdir(parents=True, exist_ok=True)
        startup_config.write_text("model_config_list { }\n", encoding="utf-8")
    process, target = _start(startup_config, log, disk)
    try:
        yield target
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Terminate `process`, and kill it if it does not end."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            # Closing a pipe with unsent bytes to an ended process raises.
            with contextlib.suppress(OSError):
                stream.close()


def _start(startup_config: Path, log: Path, disk: Path | None) -> tuple[subprocess.Popen[bytes], str]:
    for attempt in range(_ATTEMPTS):
        port = free_port()
        command = [sys.executable, "-m", "tfs_deploy.modelserver", f"--port={port}"]
        command += [f"--model_config_file={startup_config}", *FLAGS]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - no shell; our own module
                command,
                cwd=disk,
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            if _answers(process, f"127.0.0.1:{port}"):
                return process, f"127.0.0.1:{port}"
        except BaseException:
            end(process)
            raise
        if attempt + 1 < _ATTEMPTS and "taken" in log.read_text(encoding="utf-8", errors="replace"):
            continue
        break
    raise ModelServerError(
        f"The embedded model server ended with exit code {process.returncode} instead of answering.",
        f"See {log}.",
        code="UNAVAILABLE",
    )


def child_environment() -> dict[str, str]:
    """Return an environment in which a child process imports this same package."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH", ""))))
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    environment.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    return environment


def _answers(process: subprocess.Popen[bytes], target: str) -> bool:
    """Wait until the server answers; return False if it ended, raise Unreachable if it does not answer."""
    client = connect(target)
    try:
        give_up = time.monotonic() + _START_SECONDS
        while time.monotonic() < give_up:
            if process.poll() is not None:
                return False
            with contextlib.suppress(TFSDeployError):
                client.status("any", timeout=2.0)
                return True
            time.sleep(0.1)
    finally:
        client.close()
    end(process)
    raise Unreachable(f"The embedded model server at {target} did not answer for {_START_SECONDS:g} s.", "See its log.")


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
