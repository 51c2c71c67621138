"""A store that model servers cannot read, made of one in a directory; and agents beside servers, as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tfs_deploy.store.local.store import LocalStore

SYNC = (sys.executable, "-m", "tfs_deploy.cli", "sync")


class RemoteStore(LocalStore):
    """A store in a directory that says it is in S3."""

    @property
    def uri(self) -> str:
        return "s3://bucket/models"

    @property
    def directory(self) -> None:
        return None

    @property
    def requires_sync_agent(self) -> bool:
        return True

    def put_placeholder(self, model: str) -> None:
        """Do nothing, as a store in S3."""

    def remove_placeholder(self, model: str) -> None:
        """Do nothing, as a store in S3."""


class AgentProcess:
    """``tfs-deploy sync`` as a child process; always ended."""

    def __init__(self, store: Path, model_root: Path, group: str, name: str, flags: Sequence[str] = ()) -> None:
        self._command = [*SYNC, "--store", str(store), "--model-root", str(model_root), "--group", group]
        self._command += ["--name", name, *flags]
        self.log_path = model_root.with_name(f"{name}.log")
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> AgentProcess:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, "COLUMNS": "200"}
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self, seconds: float = 10.0) -> int:
        """End it as an orchestrator does, and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End it as a crash does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")
