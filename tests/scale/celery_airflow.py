"""Airflow with CeleryExecutor: PostgreSQL, Redis, scheduler, API server, triggerer and workers, on free loopback ports.

Everything lives below one folder and ends with the `with` block, by the ids of the processes that it started.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

DAGS = Path(__file__).parent / "dags"
PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
_START_SECONDS = 300.0
_ENDED = {"success", "failed"}


def postgres_folder() -> Path | None:
    """Return the folder of PostgreSQL's programs, None where Debian's package is not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


def missing_parts() -> str:
    """Return what is not installed of what this needs, in words; empty: nothing."""
    missing = [] if postgres_folder() else ["Debian's postgresql"]
    missing += [] if shutil.which("redis-server") else ["Debian's redis-server"]
    for name in ("apache-airflow-providers-celery", "psycopg2-binary", "asyncpg", "redis", "tensorflow", "moto"):
        # By its metadata: importing TensorFlow and Airflow takes seconds.
        try:
            distribution(name)
        except PackageNotFoundError:
            missing.append(f"Python's {name}")
    return ", ".join(missing)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Processes:
    """Child processes, each with a log of its own and in a process group of its own."""

    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(
        self, name: str, *command: str, environment: Mapping[str, str], cwd: Path, user: str | None = None
    ) -> None:
        with (self.logs / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, env=dict(environment), cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, user=user, group=user, extra_groups=[] if user else None,
            )  # fmt: skip

    def kill(self, name: str) -> None:
        """End a process and its group as a machine that loses power would."""
        process = self.running.pop(name)
        self._signal(process, signal.SIGKILL)
        process.wait()

    def log(self, name: str) -> str:
        return (self.logs / f"{name}.log").read_text(errors="replace")

    def stop(self) -> None:
        """End all, the last started first."""
        for process in reversed(self.running.values()):
            self._signal(process, signal.SIGTERM)
        until = time.monotonic() + 20.0
        for process in reversed(self.running.values()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, until - time.monotonic()))
            self._signal(process, signal.SIGKILL)
            process.wait()

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def wait_for(what: str, condition, seconds: float = _START_SECONDS) -> None:
    """Return when `condition()` is true; raise AssertionError after `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.25)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


@dataclass(frozen=True)
class Run:
    """A finished DAG run; `failed` are the names of its failed tasks, `seconds` from its start to its end."""

    conf: dict[str, Any]
    state: str
    seconds: float
    failed: tuple[str, ...]
    log: str
    version: int | None


class CeleryAirflow:
    """A running Airflow, asked over its public API."""

    def __init__(self, folder: Path, port: int, processes: Processes, environment: dict[str, str]) -> None:
        self.folder, self.processes, self._port, self._environment = folder, processes, port, environment
        self._token = ""

    def add_worker(self, name: str, slots: int) -> Path:
        """Start a worker with a disk and an AIRFLOW_HOME of its own; return the disk."""
        disk = self.folder / name
        (disk / "airflow").mkdir(parents=True)
        environment = self._environment | {
            "AIRFLOW_HOME": str(disk / "airflow"),
            "WORKER_DISK": str(disk),
            "TMPDIR": str(disk),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(disk / "logs"),
        }
        command = (
            "celery",
            "worker",
            "--skip-serve-logs",
            "--concurrency",
            str(slots),
            "--celery-hostname",
            f"{name}@localhost",
        )
        self.processes.start(name, sys.executable, "-m", "airflow", *command, environment=environment, cwd=disk)
        return disk

    def wait_until_ready(self) -> None:
        """Wait until the DAGs are there and the workers take tasks."""
        wait_for("a token", self._get_token)
        wait_for("the DAGs to be read", lambda: self._dags_read())
        for name in ("worker-1", "worker-2"):
            wait_for(f"{name} to be ready", lambda name=name: "ready." in self.processes.log(name))

    def run_all(
        self, dag: str, confs: list[dict[str, Any]], *, seconds: float, meanwhile=lambda ended: None
    ) -> list[Run]:
        """Start one run per conf at once and return them when all have ended; `meanwhile` gets the number that have."""
        began = [
            self._call("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf}) for conf in confs
        ]
        numbers = {run["dag_run_id"] for run in began}
        ended: list[dict[str, Any]] = []
        until = time.monotonic() + seconds
        while len(ended) < len(numbers):
            assert time.monotonic() < until, f"{len(numbers) - len(ended)} runs had not ended after {seconds:g} s"
            time.sleep(1.0)
            rows = self._call("GET", f"/api/v2/dags/{dag}/dagRuns?limit=100&order_by=-start_date")["dag_runs"]
            ended = [row for row in rows if row["dag_run_id"] in numbers and row["state"] in _ENDED]
            meanwhile(len(ended))
        return [self._run(dag, row) for row in ended]

    def _run(self, dag: str, row: dict[str, Any]) -> Run:
        name = row["dag_run_id"]
        path = f"/api/v2/dags/{dag}/dagRuns/{name}/taskInstances"
        tasks = self._call("GET", path)["task_instances"]
        failed = tuple(task["task_id"] for task in tasks if task["state"] == "failed")
        logs = "".join(
            file.read_text(errors="replace")
            for file in sorted(self.folder.glob(f"worker-*/logs/dag_id={dag}/run_id={name}/**/*.log"))
        )
        version = None
        with contextlib.suppress(AssertionError, KeyError, TypeError):
            entry = self._call("GET", f"{path}/deploy_model.publish/xcomEntries/return_value?deserialize=true")
            version = int(entry["value"]["version"])
        return Run(row["conf"], row["state"], float(row["duration"] or 0.0), failed, logs, version)

    def _get_token(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError, AssertionError):
            self._token = self._call("GET", "/auth/token")["access_token"]
        return bool(self._token)

    def _dags_read(self) -> bool:
        listed = self._call("GET", "/api/v2/dags?limit=100")["dags"]
        return {"deploy_once", "deploy_with_retries"} <= {dag["dag_id"] for dag in listed}

    def _call(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60.0)
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
            assert response.status < 300, f"{method} {path}: {response.status} {text[:500]}"
            return json.loads(text)
        finally:
            connection.close()


@contextlib.contextmanager
def celery_airflow(
    folder: Path, connections: Mapping[str, Mapping[str, Any]], *, slots: int
) -> Iterator[CeleryAirflow]:
    """Start everything with two workers of `slots` each, and stop it at the end."""
    logs = folder / "log"
    logs.mkdir(parents=True)
    processes = Processes(logs)
    try:
        database = _postgres(folder, processes)
        redis = free_port()
        (folder / "redis").mkdir()
        processes.start(
            "redis", "redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "",
            environment=os.environ, cwd=folder / "redis",
        )  # fmt: skip
        wait_for("Redis to answer", lambda: answers(redis), 30.0)
        port = free_port()
        environment = _environment(folder, database, redis, port, connections)
        home = folder / "airflow"
        home.mkdir()
        airflow = (sys.executable, "-m", "airflow")
        migrated = subprocess.run(
            [*airflow, "db", "migrate"], env=environment, cwd=home, capture_output=True, text=True
        )
        assert migrated.returncode == 0, migrated.stdout[-3000:] + migrated.stderr[-3000:]
        for name, *command in (("api-server", "--workers", "1"), ("dag-processor",), ("scheduler",), ("triggerer",)):
            extra = ("--skip-serve-logs",) if name in ("scheduler", "triggerer") else ()
            processes.start(name, *airflow, name, *command, *extra, environment=environment, cwd=home)
        running = CeleryAirflow(folder, port, processes, environment)
        for name in ("worker-1", "worker-2"):
            running.add_worker(name, slots)
        running.wait_until_ready()
        yield running
    finally:
        processes.stop()


def _postgres(folder: Path, processes: Processes) -> str:
    """Start PostgreSQL, which refuses to run as root, and return the address of an empty database."""
    programs = postgres_folder()
    assert programs is not None
    data, user = folder / "postgres", "postgres" if os.geteuid() == 0 else None
    data.mkdir()
    if user:
        shutil.chown(data, user, user)
        for parent in (data, *data.parents):
            if not parent.stat().st_mode & 0o001 and parent != data:
                parent.chmod(parent.stat().st_mode | 0o011)
    as_user = {"user": user, "group": user, "extra_groups": []} if user else {}
    subprocess.run(
        [str(programs / "initdb"), "--auth=trust", "-U", "airflow", "--no-sync", "--encoding=UTF8", "-D", str(data)],
        check=True, cwd=data, stdout=subprocess.DEVNULL, **as_user,
    )  # fmt: skip
    port = free_port()
    options = ("-p", str(port), "-h", "127.0.0.1", "-k", str(data), "-c", "fsync=off", "-c", "max_connections=300")
    processes.start(
        "postgres", str(programs / "postgres"), "-D", str(data), *options, environment=os.environ, cwd=data, user=user
    )
    wait_for("PostgreSQL to answer", lambda: answers(port), 60.0)
    createdb = [str(programs / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "airflow", "airflow"]
    wait_for("a database", lambda: subprocess.run(createdb, capture_output=True).returncode == 0, 60.0)
    return f"postgresql+psycopg2://airflow@127.0.0.1:{port}/airflow"


def _environment(
    folder: Path, database: str, redis: int, port: int, connections: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment |= {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        # The installed package registers its plugin by entry point; a copy in this folder would do so again.
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(folder / "no plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__PARALLELISM": "64",
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "100",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__CELERY__BROKER_URL": f"redis://127.0.0.1:{redis}/0",
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database}",
        "AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER": "1",
        # A worker that is killed is noticed soon.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "40",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(PLUGINS), os.environ.get("PYTHONPATH", "")))),
        "C_FORCE_ROOT": "1",
    }
    for name, connection in connections.items():
        environment[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(connection)
    return environment
