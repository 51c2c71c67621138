"""Where the demo's versions live and who serves them: one directory and one model server, or S3 and two of them.

With S3 the two model servers share no disk: each has a directory of its own, and a sync agent beside it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfs_deploy.demo.airflow_process import CONNECTION
from tfs_deploy.demo.model_server import child_environment, end, model_server
from tfs_deploy.demo.object_store import BUCKET, ObjectStore, object_store
from tfs_deploy.demo.story import GROUP
from tfs_deploy.errors import InvalidInput
from tfs_deploy.store.object_store.connection import S3Options
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import Store

_REPLICAS = 2
_AWS = "aws_default"
# One config names one directory for all replicas, which on real machines is another disk on each. Here both processes
# run on one machine, and the path leads each to its own working directory.
_OWN_DISK = Path("/proc/self/cwd")


@dataclass(frozen=True, slots=True)
class Site:
    """What is running, and the Airflow connections to it by id; `told` describes it in one line."""

    targets: tuple[str, ...]
    store: Store
    connections: dict[str, dict[str, Any]]
    told: str


@contextlib.contextmanager
def on_disk(workspace: Path) -> Iterator[Site]:
    """Serve from a store in a directory, which the model server reads itself."""
    store = workspace / "store"
    store.mkdir()
    startup_config = workspace / "serving" / "models.config"
    with model_server(startup_config, workspace / "log" / "model-server.log") as target:
        extra = {"store": str(store), "group": GROUP, "startup_config": str(startup_config)}
        connections = {CONNECTION: _serving((target,), extra)}
        yield Site((target,), open_store(str(store)), connections, f"the model server listens on {target}")


@contextlib.contextmanager
def on_s3(workspace: Path) -> Iterator[Site]:
    """Serve from a store in S3: two model servers with separate disks, each with a sync agent."""
    if not _OWN_DISK.is_dir():
        raise InvalidInput(
            f"Two disks on one machine need {_OWN_DISK}, which this system lacks.", "Run make demo without STORE=s3."
        )
    uri = f"s3://{BUCKET}/models"
    with contextlib.ExitStack() as running:
        objects = running.enter_context(object_store(workspace / "log" / "s3.log"))
        targets = tuple(
            running.enter_context(_replica(workspace, f"replica-{number}", uri, objects))
            for number in range(1, _REPLICAS + 1)
        )
        extra = {"store": uri, "group": GROUP, "model_root": str(_OWN_DISK / "models"), "aws_conn_id": _AWS}
        options = S3Options(
            endpoint_url=objects.endpoint,
            region=objects.region,
            access_key_id=objects.key_id,
            secret_access_key=objects.secret,
        )
        aws = {
            "conn_type": "aws",
            "login": objects.key_id,
            "password": objects.secret,
            "extra": {"endpoint_url": objects.endpoint, "region_name": objects.region},
        }
        yield Site(
            targets,
            open_store(uri, s3=options),
            {CONNECTION: _serving(targets, extra), _AWS: aws},
            f"S3 at {objects.endpoint}, model servers with a sync agent and a disk each at {' and '.join(targets)}",
        )


SITES: dict[str, Callable[[Path], AbstractContextManager[Site]]] = {"disk": on_disk, "s3": on_s3}


def _serving(targets: tuple[str, ...], extra: dict[str, str]) -> dict[str, Any]:
    return {"conn_type": "tf_serving", "host": ",".join(targets), "extra": extra}


@contextlib.contextmanager
def _replica(workspace: Path, name: str, uri: str, objects: ObjectStore) -> Iterator[str]:
    disk = workspace / name
    (disk / "models").mkdir(parents=True)
    startup_config = disk / "models.config"
    with (
        _agent(disk, name, uri, objects, startup_config, workspace / "log" / f"sync-{name}.log"),
        model_server(startup_config, workspace / "log" / f"model-server-{name}.log", disk=disk) as target,
    ):
        yield target


@contextlib.contextmanager
def _agent(disk: Path, name: str, uri: str, objects: ObjectStore, startup_config: Path, log: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "tfs_deploy.cli", "sync", "--store", uri, "--group", GROUP, "--name", name]
    command += ["--model-root", "models", "--startup-config", str(startup_config)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - no shell; our own module
            command,
            cwd=disk,
            env={**child_environment(), **objects.environment()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        end(process)
