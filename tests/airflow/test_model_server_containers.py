"""The operators that start, use and stop a model server in a container, on a real engine with our image."""

from __future__ import annotations

import json
import os
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from embedded_server import free_port
from on_docker.engine import MODEL_SERVER, containers, docker, require, wait_for
from tfs_deploy import (
    LoadModelVersionOperator,
    PublishModelOperator,
    StartModelServerOperator,
    StopModelServerOperator,
    ValidateModelVersionOperator,
)
from tfs_deploy.errors import Unreachable

pytestmark = [pytest.mark.airflow, pytest.mark.docker, pytest.mark.timeout(600)]


@pytest.fixture
def run() -> Iterator[str]:
    require(MODEL_SERVER)
    run = f"run-{uuid.uuid4().hex[:8]}"
    yield run
    left = containers(f"tfs_deploy.run={run}")
    for name in left:
        docker("rm", "--force", name)
    assert left == []


def context(run: str, task: str, states: dict[str, str] | None = None) -> dict[str, Any]:
    """As much of a task's context as the operators look at; `states` is what Airflow says of runs."""

    def get_dagrun_state(dag_id: str, run_id: str) -> str:
        return (states or {})[run_id]

    dag_run = SimpleNamespace(dag_id="a_dag", run_id=run, triggering_user_name="ada")
    ti = SimpleNamespace(dag_id="a_dag", run_id=run, task_id=task, map_index=-1, get_dagrun_state=get_dagrun_state)
    return {"dag_run": dag_run, "ti": ti}


@pytest.fixture
def good(shared_models: Path) -> str:
    return str(shared_models / "half_plus_two_tf2_cpu" / "00000123")


def config(folder: Path) -> str:
    path = folder / "models.config"
    path.write_text("model_config_list { }\n")
    return str(path)


def test_a_server_is_started_validated_in_and_stopped(
    run: str, good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, port = tmp_path / "store", free_port()
    store.mkdir()
    tmp_path.chmod(0o755)
    extra = {"store": str(store), "model_root": "/models"}
    told = {"conn_type": "tf_serving", "host": f"127.0.0.1:{port}", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", json.dumps(told))
    start = StartModelServerOperator(
        task_id="start",
        server={
            "image": MODEL_SERVER,
            "files": {"model_config": config(tmp_path)},
            "model_root": {"directory": str(store)},
            "ports": {"grpc": str(port)},
            "loading": {"load_threads": 1, "retries": 0, "labels_for_unavailable": True},
            "user": "0",
        },
    )
    running = start.execute(context(run, "start"))
    assert running["grpc"] == f"127.0.0.1:{port}"
    assert containers(f"tfs_deploy.run={run}") == [running["name"]]

    step = {"model": "half"}
    published = PublishModelOperator(task_id="publish", saved_model=good, **step).execute(context(run, "publish"))
    LoadModelVersionOperator(task_id="load", version=published, **step).execute(context(run, "load"))
    report = ValidateModelVersionOperator(task_id="validate", version=published, **step).execute(
        context(run, "validate")
    )
    assert report["verdict"] == "pass"

    # A second try replaces what the first one started, although that holds the port.
    again = start.execute(context(run, "start"))
    assert containers(f"tfs_deploy.run={run}") == [again["name"]]
    assert again["name"] != running["name"]

    stop = StopModelServerOperator(task_id="stop", server_task_id="start")
    assert stop.execute(context(run, "stop")) == [again["name"]]
    assert stop.execute(context(run, "stop")) == []


def test_validation_in_an_image(run: str, good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = ValidateModelVersionOperator(
        task_id="rehearse", model="half", saved_model=good, image=[MODEL_SERVER], copy=True
    )
    report = operator.execute(context(run, "rehearse"))
    assert (report["verdict"], report["replicas"]) == ("pass", [MODEL_SERVER])
    with pytest.raises(AirflowFailException, match="Neither or both"):
        ValidateModelVersionOperator(task_id="x", model="half", image=MODEL_SERVER).execute(context(run, "x"))
    with pytest.raises(AirflowFailException, match="Name an image"):
        ValidateModelVersionOperator(task_id="x", model="half", saved_model=good).execute(context(run, "x"))
    nowhere = ValidateModelVersionOperator(
        task_id="x", model="half", saved_model=good, image=MODEL_SERVER, docker_url=f"unix://{tmp_path}/absent.sock"
    )
    with pytest.raises(Unreachable, match="does not answer"):
        nowhere.execute(context(run, "x"))


def test_a_task_that_is_killed_while_it_starts(run: str, tmp_path: Path) -> None:
    """An empty base path: the server opens no port, and the task waits until somebody kills it."""
    start = StartModelServerOperator(
        task_id="start", server={"image": MODEL_SERVER, "model": {"name": "absent"}}, start_seconds=300
    )

    def kill() -> None:
        wait_for("the container", lambda: len(containers(f"tfs_deploy.run={run}")) == 1)
        os.kill(os.getpid(), signal.SIGTERM)

    # Airflow's task runner does the same: the handler calls on_kill, in the middle of execute, and returns.
    before = signal.signal(signal.SIGTERM, lambda *_: start.on_kill())
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(AirflowFailException):
            start.execute(context(run, "start"))
        assert containers(f"tfs_deploy.run={run}") == []
    finally:
        killer.join(120)
        signal.signal(signal.SIGTERM, before)


def test_leftovers_of_runs_that_are_over(run: str) -> None:
    server = {"image": MODEL_SERVER, "model": {"name": "absent"}}
    other = f"{run}-other"
    docker(
        "create", "--label", "tfs_deploy.project=tfs_deploy", "--label", "tfs_deploy.purpose=run",
        "--label", "tfs_deploy.dag=a_dag", "--label", f"tfs_deploy.run={other}", MODEL_SERVER,
    )  # fmt: skip
    start = StartModelServerOperator(task_id="start", server={**server, "arguments": ["--enable_batchng"]})
    for state, left in (("running", 1), ("failed", 0)):
        with pytest.raises(AirflowFailException, match="Did you mean --enable_batching"):
            start.execute(context(run, "start", {other: state}))
        assert len(containers(f"tfs_deploy.run={other}")) == left
