"""Starts the embedded model server as a child process for a test, and always ends it.

    with EmbeddedServer() as server: ...

`EmbeddedServer(flags=...)` starts ``python -m tfs_deploy.modelserver`` on a free loopback port and waits until the
port answers; `target` is ``127.0.0.1:PORT``. Without --model_base_path or --model_config_file among the flags it starts
on ``model_config_list { }``. With `command` the same is done with another model server, for the contract suite.
"""

from __future__ import annotations

import atexit
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

# What an RPC-driven deployment runs with; quick and without retries, for tests, and more threads than a test has calls.
RPC_DRIVEN_FLAGS = (
    "--num_load_threads=2",
    "--num_unload_threads=1",
    "--max_num_load_retries=0",
    "--allow_version_labels_for_unavailable_models=true",
    "--file_system_poll_wait_seconds=1",
    "--grpc_max_threads=64",
)
COMMAND = (sys.executable, "-m", "tfs_deploy.modelserver")
_START_SECONDS = 60.0


def free_port() -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EmbeddedServer:
    """One child process; use it as a context manager, or call `start` and `stop`."""

    def __init__(
        self,
        flags: Sequence[str] = RPC_DRIVEN_FLAGS,
        *,
        port: int | None = None,
        wait: bool = True,
        start_seconds: float = _START_SECONDS,
        command: Sequence[str] = COMMAND,
        below: Path | None = None,
    ) -> None:
        """Prepare; `wait=False` leaves it to the test to see whether the port ever opens.

        Log and config file are written to a directory of their own, `below` a directory that `command` can read.
        """
        self._command = tuple(command)
        self.port = port or free_port()
        self.target = f"127.0.0.1:{self.port}"
        self._flags = tuple(flags)
        self._wait = wait
        self._start_seconds = start_seconds
        self._directory = tempfile.TemporaryDirectory(prefix="embedded_server_", dir=below)
        self.log_path = Path(self._directory.name) / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._directory.cleanup()

    def start(self) -> EmbeddedServer:
        """Start the process and wait until the port answers; raise AssertionError with the log if it does not."""
        command = [*self._command, f"--port={self.port}", *self._all_flags()]
        with self.log_path.open("ab") as log:
            # A session of its own: a Ctrl-C at the terminal is the test run's, which then stops the server.
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        atexit.register(self.stop)
        if self._wait:
            try:
                self.wait_until_answering(self._start_seconds)
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self, seconds: float = 30.0) -> int | None:
        """End the process: SIGTERM, then SIGKILL; return its exit status (None if it was never started)."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def kill(self) -> None:
        """End the process as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def answers(self) -> bool:
        """Tell whether somebody listens on the port now."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
        except OSError:
            return False
        return True

    def wait_until_answering(self, seconds: float) -> None:
        """Return when the port answers; raise AssertionError with the log when the process ended or time is up."""
        deadline = time.monotonic() + seconds
        while not self.answers():
            ended = self.process is None or self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                what = "ended" if ended else f"did not answer within {seconds:g} s"
                raise AssertionError(f"The embedded model server {what}:\n{self.log()}")
            time.sleep(0.02)

    def wait_until_ended(self, seconds: float) -> int:
        """Return the exit status when the process ends by itself within `seconds`; raise subprocess.TimeoutExpired."""
        assert self.process is not None
        return self.process.wait(seconds)

    def log(self) -> str:
        """Return everything the server has written so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def _all_flags(self) -> tuple[str, ...]:
        if any(flag.startswith(("--model_base_path", "--model_config_file=")) for flag in self._flags):
            return self._flags
        config = Path(self._directory.name) / "models.config"
        config.write_text("model_config_list { }\n")
        return (*self._flags, f"--model_config_file={config}")
