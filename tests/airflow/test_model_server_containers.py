"""The operators that start, use and stop a model server in a container, on a real engine with our image."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from embedded_server import free_port
from on_docker.engine import MODEL_SERVER, containers, docker, plain_environment, require, wait_for
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


DAG_FILE = """
from pathlib import Path

from airflow.sdk import DAG, task

from tfs_deploy import StartModelServerOperator, StopModelServerOperator

with DAG(dag_id="in_a_container", schedule=None):

    @task
    def use(server, folder, run_id=None):
        from tfs_deploy.containers.docker_engine import connect
        from tfs_deploy.containers.ownership import RUN_LABEL

        engine = connect()
        found = engine.find({RUN_LABEL: run_id, "tfs_deploy.dag": "in_a_container", "tfs_deploy.task": "start"})
        Path(folder, "seen").write_text(f"{[one.name for one in found] == [server['name']]} {run_id}")
        raise ValueError("the task that uses the server fails")

    start = StartModelServerOperator(task_id="start", server=SERVER)
    stop = StopModelServerOperator(task_id="stop", server_task_id="start")
    start >> use(start.output, FOLDER) >> stop.as_teardown(setups=start)
"""
RUN_IT = """
import json, os
from airflow.utils.db import initdb
initdb()
from airflow.dag_processing.dagbag import DagBag
done = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]).dags["in_a_container"].test()
print(json.dumps({ti.task_id: str(ti.state) for ti in done.get_task_instances()}))
"""


@pytest.fixture
def nothing_of_the_dag() -> Iterator[None]:
    require(MODEL_SERVER)
    yield
    for name in containers("tfs_deploy.dag=in_a_container"):
        docker("rm", "--force", name)


def test_a_dag_whose_task_fails_is_torn_down(tmp_path: Path, nothing_of_the_dag: None) -> None:
    """Setup and teardown, run by Airflow itself: the server is there for the task, and gone after it failed."""
    (tmp_path / "dags").mkdir()
    server = {"image": MODEL_SERVER, "files": {"model_config": config(tmp_path)}}
    source = DAG_FILE.replace("SERVER", repr(server)).replace("FOLDER", repr(str(tmp_path)))
    (tmp_path / "dags" / "in_a_container.py").write_text(source)
    environment = plain_environment(
        PYTHONPATH=os.pathsep.join(sys.path),
        AIRFLOW_HOME=str(tmp_path / "airflow"),
        AIRFLOW__CORE__DAGS_FOLDER=str(tmp_path / "dags"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{tmp_path / 'airflow.db'}",
    )
    done = subprocess.run([sys.executable, "-c", RUN_IT], env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    states = json.loads(done.stdout.splitlines()[-1])
    assert states == {"start": "success", "use": "failed", "stop": "success"}, done.stdout[-3000:]
    seen, _, run = (tmp_path / "seen").read_text().partition(" ")
    assert seen == "True"
    assert containers(f"tfs_deploy.run={run}", "tfs_deploy.dag=in_a_container") == []
