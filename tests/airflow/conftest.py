"""An Airflow of its own on SQLite, and a serving group of one fake model server behind real gRPC."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fakes import FakeModelServer, FakeVersion
from saved_model_files import BEHAVIOUR, write_saved_model
from serving.grpc_front import serve

REPOSITORY = Path(__file__).resolve().parents[2]
HOME = Path(tempfile.mkdtemp(prefix="tfs_deploy_airflow_"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

# Airflow reads its settings when it is imported, and that is when a test module is collected.
os.environ.update(
    AIRFLOW_HOME=str(HOME),
    AIRFLOW__CORE__DAGS_FOLDER=str(REPOSITORY / "dags"),
    # The package is installed, so its plugin comes by entry point; a second copy would be registered twice.
    AIRFLOW__CORE__PLUGINS_FOLDER=str(HOME / "plugins"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{HOME / 'airflow.db'}",
    AIRFLOW__LOGGING__LOGGING_LEVEL="WARNING",
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave Airflow out of a process that asked for no test of it: importing it takes seconds."""
    return True if "not airflow" in config.option.markexpr else None


@dataclass
class Group:
    """A serving group named by connection `tf_serving_default`."""

    server: FakeModelServer
    target: str
    store: Path
    folder: Path
    connect: Callable[..., None]

    def staged(self, behaviour: str = "good") -> str:
        """Return a staged export that the fake server serves as `behaviour` says."""
        directory = self.folder / "staged" / behaviour.replace(" ", "_")
        return str(directory if directory.exists() else write_saved_model(directory, behaviour))

    def stable(self, model: str = "half") -> int | None:
        return self.server.labels.get(model, {}).get("stable")


def behave(path: Path) -> FakeVersion:
    """Return what the fake server makes of a version directory: its behaviour file decides."""
    behaviour = (path / BEHAVIOUR).read_text().split()[0]
    if behaviour == "broken":
        return FakeVersion(broken="Specified file path does not appear to contain a SavedModel bundle")
    if behaviour == "mute":
        return FakeVersion(function=_cannot_predict)
    return FakeVersion()


def _cannot_predict(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    raise ValueError("Could not find variable dense/kernel")


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    store = tmp_path / "store"
    store.mkdir()
    server = FakeModelServer(discover=behave)

    def connect(host: str, **extra: Any) -> None:
        told = {"conn_type": "tf_serving", "host": host, "extra": {"store": str(store), **extra}}
        monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", json.dumps(told))

    with serve(server) as target:
        connect(target)
        yield Group(server, target, store, tmp_path, connect)


@pytest.fixture
def context() -> dict[str, Any]:
    """As much of a task's context as our operators look at."""
    run = SimpleNamespace(
        dag_id="a_dag", run_id="a_run", triggering_user_name="ada", run_after=datetime.now(timezone.utc)
    )
    return {"dag_run": run}
