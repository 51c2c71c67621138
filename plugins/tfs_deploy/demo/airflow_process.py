"""Airflow on SQLite in a child process that runs DAGs one after the other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfs_deploy.demo.model_server import child_environment
from tfs_deploy.errors import TFSDeployError

CONNECTION = "tf_serving_default"
_LEAVE_SECONDS = 10.0
_TERMINATE_SECONDS = 2.0


class AirflowStopped(TFSDeployError):
    """The Airflow process ended in the middle of its work."""


@dataclass(frozen=True, slots=True)
class AirflowDirectories:
    """Directories of one throw-away Airflow."""

    home: Path
    dags: Path
    log: Path


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One task of a run: `task` with its groups (``deploy.load``), seconds from its first start to its end."""

    task: str
    state: str
    seconds: float = 0.0
    error: str = ""

    @property
    def step(self) -> str:
        """The task's own name."""
        return self.task.rsplit(".", 1)[-1]


@dataclass(slots=True)
class DagRun:
    """A finished run; `tasks` in the order in which they ended."""

    dag: str
    state: str = ""
    error: str = ""
    tasks: list[TaskRun] = field(default_factory=list)

    def seconds(self, step: str) -> float | None:
        """Return how long the task named `step` took; None if it did not run."""
        seconds = [task.seconds for task in self.tasks if task.step == step and task.state != "skipped"]
        return seconds[-1] if seconds else None

    def error_text(self) -> str:
        """Return the error of the first task that failed, or of the run."""
        return next((task.error for task in self.tasks if task.state == "failed" and task.error), self.error)


class AirflowProcess:
    """Run DAGs one after the other."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def wait_until_ready(self) -> None:
        """Wait until the database exists and DAGs can run."""
        for event in self._events():
            if event["event"] == "ready":
                return

    def run(self, dag: str, conf: dict[str, Any], on_task: Callable[[TaskRun], None]) -> DagRun:
        """Run `dag` with the parameters `conf` to its end; `on_task` is called at every start and end of a task."""
        if self._process.stdin is None:
            raise ValueError("the process was started without a pipe")
        with contextlib.suppress(BrokenPipeError):  # reported below, when no event comes
            self._process.stdin.write(json.dumps({"dag": dag, "conf": conf}).encode() + b"\n")
            self._process.stdin.flush()
        done = DagRun(dag)
        for event in self._events():
            if event["event"] == "done":
                done.state, done.error = event["state"], event["error"]
                break
            task = TaskRun(event["task"], event["state"], event.get("seconds", 0.0), event.get("error", ""))
            on_task(task)
            if task.state != "running":
                done.tasks.append(task)
        return done

    def _events(self) -> Iterator[dict[str, Any]]:
        if self._process.stdout is None:
            raise ValueError("the process was started without a pipe")
        for line in self._process.stdout:
            yield json.loads(line)
        code = self._process.wait()
        raise AirflowStopped(f"The Airflow process ended with exit code {code}.", "See its log.")


@contextlib.contextmanager
def airflow_process(
    directories: AirflowDirectories, connections: dict[str, dict[str, Any]]
) -> Iterator[AirflowProcess]:
    """Start Airflow with `connections` by id, and stop it with all of its processes at the end."""
    directories.home.mkdir(parents=True, exist_ok=True)
    directories.log.mkdir(parents=True, exist_ok=True)
    with (directories.log / "airflow.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tfs_deploy.demo.airflow_worker"],
            env=_environment(directories, connections),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    grace_seconds = 0.0
    try:
        yield AirflowProcess(process)
        # No DAG runs any more, so the process ends when its stdin does.
        grace_seconds = _LEAVE_SECONDS
    finally:
        _end(process, grace_seconds)


def _environment(directories: AirflowDirectories, connections: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return an environment without the settings of the user's Airflow, example DAGs and usage data."""
    environment = {name: value for name, value in child_environment().items() if not name.startswith("AIRFLOW")}
    environment.update(
        AIRFLOW_HOME=str(directories.home),
        AIRFLOW__CORE__DAGS_FOLDER=str(directories.dags),
        # The installed package registers its plugin by entry point; a copy in this folder would do so again.
        AIRFLOW__CORE__PLUGINS_FOLDER=str(directories.home / "plugins"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{directories.home / 'airflow.db'}",
        AIRFLOW__LOGGING__BASE_LOG_FOLDER=str(directories.log / "tasks"),
        AIRFLOW__LOGGING__LOGGING_LEVEL="INFO",
        AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
    )
    for name, connection in connections.items():
        environment[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(connection)
    return environment


def _end(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """End the process and its group, after `grace_seconds` in which it may end by itself."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace_seconds)
    # Its group holds the processes of its tasks; an export ends by itself when its parent does.
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_TERMINATE_SECONDS)
    _signal_group(process, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
