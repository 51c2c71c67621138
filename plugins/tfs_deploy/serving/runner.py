"""Start and stop a temporary model server for an offline validation; a runner never calls the server that it runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from tfs_deploy.clock import Clock, Deadline, SystemClock
from tfs_deploy.errors import DeadlineExceeded, LoadFailed, LoadInterrupted, TFSDeployError
from tfs_deploy.serving.load_errors import code_in_log, load_error

# A temporary server has no requests to finish.
_STOP_SECONDS = 2.0
_LOG_TAIL_BYTES = 2000
# From outside, for example by the kernel for want of memory; a model that crashes the server gives SIGSEGV or SIGABRT.
_KILLED = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
# Another program may take the free port before the server does.
_PORT_IS_TAKEN = "is the port taken?"


class ModelServerRunner(Protocol):
    """Serves one SavedModel directory for the time of a `with` block."""

    def serve(self, directory: Path, model: str, version: int) -> AbstractContextManager[str]:
        """Serve `directory` as `version` of `model`; yield host:port once the server accepts connections."""


class EmbeddedRunner:
    """Run the embedded model server as a child process; no Docker, no TensorFlow in this process."""

    def __init__(self, *, python: str | None = None, start_seconds: float = 120.0, clock: Clock | None = None) -> None:
        self._python = python or sys.executable
        self._start_seconds = start_seconds
        self._clock = clock or SystemClock()

    @contextmanager
    def serve(self, directory: Path, model: str, version: int) -> Iterator[str]:
        """Start a server without load retries: a broken model fails at once.

        Raises LoadFailed, which quotes the server, when it ends before it serves, LoadInterrupted when it was killed or
        could not start for another reason than the model, and DeadlineExceeded when it does neither in time.
        """
        with tempfile.TemporaryDirectory(prefix="tfs-deploy-") as folder:
            base = Path(folder) / model
            base.mkdir()
            # A version is a directory with a number for a name, a symbolic link will do (contract 20.11).
            (base / str(version)).symlink_to(directory.resolve(), target_is_directory=True)
            port = _free_port()
            log = Path(folder) / "server.log"
            process = self._start(base, model, port, log)
            try:
                self._wait_for_port(process, port, log)
                yield f"127.0.0.1:{port}"
            finally:
                _stop(process)

    def _start(self, base: Path, model: str, port: int, log: Path) -> subprocess.Popen[bytes]:
        command = [self._python, "-m", "tfs_deploy.modelserver"]
        flags = [f"--port={port}", f"--model_name={model}", f"--model_base_path={base}", "--max_num_load_retries=0"]
        package_root = str(Path(__file__).resolve().parents[2])
        paths = [package_root, os.environ.get("PYTHONPATH", "")]
        # The server polls this process id and ends when a deployer was killed.
        parent = {"TFS_DEPLOY_END_WITH_PARENT": str(os.getpid())}
        environment = {**os.environ, **parent, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        with log.open("wb") as sink:
            # A session of its own: Ctrl-C in a terminal reaches this process only, and this process ends the server.
            # A server that gets SIGINT and SIGTERM during its imports hangs.
            return subprocess.Popen(  # noqa: S603 - our own module, arguments as a list
                [*command, *flags],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=environment,
                start_new_session=True,
            )

    def _wait_for_port(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        deadline = Deadline.after(self._start_seconds, self._clock)
        while not _accepts(port):
            if process.poll() is not None:
                raise _start_error(process.returncode, _log_excerpt(log))
            if deadline.passed():
                raise DeadlineExceeded(
                    f"The throw-away model server served nothing in {self._start_seconds:.0f} s: {_log_excerpt(log)}",
                    "Allow more time, or check the model's warm-up requests.",
                )
            self._clock.sleep(0.1)


def _start_error(code: int, excerpt: str) -> TFSDeployError:
    """Return the error for a server that ended with `code` before it served."""
    cause = f"The throw-away model server ended with code {code}: {excerpt}"
    if code in _KILLED or _PORT_IS_TAKEN in excerpt:
        return LoadInterrupted(cause, "Look for want of memory on this machine, then try again; nothing was published.")
    error = load_error(code_in_log(excerpt), cause)
    return LoadFailed(cause, "Correct the model; nothing was published.") if isinstance(error, LoadFailed) else error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _log_excerpt(log: Path) -> str:
    text = log.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    failed = [line for line in lines if "Error" in line or "Failed" in line]
    return (failed or lines or ["it wrote nothing"])[-1]
