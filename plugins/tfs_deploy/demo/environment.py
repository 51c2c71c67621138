"""The demo's store and model servers: a directory with one model server, or an S3 server (moto) with two.

With S3 the two model servers share no disk: each has a directory of its own and a sync agent.
"""

from __future__ import annotations

import contextlib
import http.client
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfs_deploy.demo.airflow_process import CONNECTION
from tfs_deploy.demo.model_server import child_environment, end, free_port, model_server
from tfs_deploy.demo.scenario import GROUP
from tfs_deploy.errors import InvalidInput, Unreachable
from tfs_deploy.store.object_store.connection import S3Options
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import Store

_REPLICAS = 2
_AWS = "aws_default"
BUCKET = "tfs-deploy-demo"
_START_SECONDS = 60.0
_HOST = "127.0.0.1"
# One config names one directory for all replicas, which is another disk on each machine. Both processes of the demo run
# on one machine, where this path leads each to its own working directory.
_OWN_DISK = Path("/proc/self/cwd")


@dataclass(frozen=True, slots=True)
class Environment:
    """The running servers, and the Airflow connections to them by id; `description` is one line."""

    targets: tuple[str, ...]
    store: Store
    connections: dict[str, dict[str, Any]]
    description: str


@dataclass(frozen=True, slots=True)
class S3Server:
    """The address and random credentials of an S3 server."""

    endpoint: str
    region: str = "us-east-1"
    key_id: str = field(default_factory=lambda: secrets.token_hex(8))
    secret: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    def environment(self) -> dict[str, str]:
        """Return the environment variables of boto3."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }


@contextlib.contextmanager
def on_disk(workspace: Path) -> Iterator[Environment]:
    """Serve from a store in a directory, which the model server reads itself."""
    store = workspace / "store"
    store.mkdir()
    startup_config = workspace / "serving" / "models.config"
    with model_server(startup_config, workspace / "log" / "model-server.log") as target:
        extra = {"store": str(store), "group": GROUP, "startup_config": str(startup_config)}
        connections = {CONNECTION: _serving((target,), extra)}
        yield Environment((target,), open_store(str(store)), connections, f"the model server listens on {target}")


@contextlib.contextmanager
def on_s3(workspace: Path) -> Iterator[Environment]:
    """Serve from a store in S3: two model servers with separate disks, each with a sync agent."""
    if not _OWN_DISK.is_dir():
        raise InvalidInput(
            f"The demo with S3 needs {_OWN_DISK}, which this system lacks.", "Run make demo without STORE=s3."
        )
    uri = f"s3://{BUCKET}/models"
    with contextlib.ExitStack() as running:
        s3 = running.enter_context(s3_server(workspace / "log" / "s3.log"))
        targets = tuple(
            running.enter_context(_replica(workspace, f"replica-{number}", uri, s3))
            for number in range(1, _REPLICAS + 1)
        )
        extra = {"store": uri, "group": GROUP, "model_root": str(_OWN_DISK / "models"), "aws_conn_id": _AWS}
        options = S3Options(
            endpoint_url=s3.endpoint,
            region=s3.region,
            access_key_id=s3.key_id,
            secret_access_key=s3.secret,
        )
        aws = {
            "conn_type": "aws",
            "login": s3.key_id,
            "password": s3.secret,
            "extra": {"endpoint_url": s3.endpoint, "region_name": s3.region},
        }
        yield Environment(
            targets,
            open_store(uri, s3=options),
            {CONNECTION: _serving(targets, extra), _AWS: aws},
            f"S3 at {s3.endpoint}, model servers with a sync agent and a disk each at {' and '.join(targets)}",
        )


ENVIRONMENTS: dict[str, Callable[[Path], AbstractContextManager[Environment]]] = {"disk": on_disk, "s3": on_s3}


def _serving(targets: tuple[str, ...], extra: dict[str, str]) -> dict[str, Any]:
    return {"conn_type": "tf_serving", "host": ",".join(targets), "extra": extra}


@contextlib.contextmanager
def _replica(workspace: Path, name: str, uri: str, s3: S3Server) -> Iterator[str]:
    disk = workspace / name
    (disk / "models").mkdir(parents=True)
    startup_config = disk / "models.config"
    with (
        _agent(disk, name, uri, s3, startup_config, workspace / "log" / f"sync-{name}.log"),
        model_server(startup_config, workspace / "log" / f"model-server-{name}.log", disk=disk) as target,
    ):
        yield target


@contextlib.contextmanager
def _agent(disk: Path, name: str, uri: str, s3: S3Server, startup_config: Path, log: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "tfs_deploy.cli", "sync", "--store", uri, "--group", GROUP, "--name", name]
    command += ["--model-root", "models", "--startup-config", str(startup_config)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - no shell; our own module
            command,
            cwd=disk,
            env={**child_environment(), **s3.environment()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        end(process)


@contextlib.contextmanager
def s3_server(log: Path) -> Iterator[S3Server]:
    """Start moto with an empty bucket, and stop it at the end."""
    port = free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - no shell; a module of this environment
            [sys.executable, "-m", "moto.server", "-H", _HOST, "-p", str(port)],
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _create_bucket(process, port, log)
        yield S3Server(f"http://{_HOST}:{port}")
    finally:
        end(process)


def _create_bucket(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up and process.poll() is None:
        connection = http.client.HTTPConnection(_HOST, port, timeout=5.0)
        try:
            connection.request("PUT", f"/{BUCKET}")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise Unreachable("The S3 server of the demo did not start.", f"See {log}.")
