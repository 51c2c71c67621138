"""Whole DAGs, run by Airflow against the embedded model server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.models.asset import AssetEvent
from airflow.sdk.exceptions import AirflowFailException
from airflow.utils.db import initdb
from airflow.utils.session import create_session

from embedded_server import EmbeddedServer
from tfs_deploy import DeployModelOperator, RollbackModelOperator
from tfs_deploy.clock import SystemClock
from tfs_deploy.deployment import records
from tfs_deploy.deployment.records import DeploymentRecord
from tfs_deploy.errors import NotFound
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.requests import GoldenRequest, write_golden
from tfs_deploy.serving.client import connect
from tfs_deploy.store.open import open_store

pytestmark = [pytest.mark.airflow, pytest.mark.tensorflow]

TWO, THREE = "half_plus_two_tf2_cpu/00000123", "half_plus_three/00000123"
PLUS_TWO_TF1 = "half_plus_two_2_versions/00000123"
X = np.array([[1.0], [2.0], [5.0]], dtype=np.float32)


@dataclass
class Run:
    """How a run ended: its state, and each task's."""

    state: str
    tasks: dict[str, str]


@dataclass
class Airflow:
    """Airflow with one serving group of one embedded model server."""

    target: str
    folder: Path

    @property
    def documents(self) -> Any:
        return open_store(str(self.folder / "store")).documents

    def run(self, dag_id: str, *, deferrable: bool = False, **conf: Any) -> Run:
        """Run a DAG to its end; read anew, because `dag.test` leaves its parameters in the object."""
        dag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]).dags[dag_id]
        if deferrable:
            dag.task_dict["deploy.load"].deferrable = True
        if "work_dir" in dag.params:
            conf["work_dir"] = str(self.folder / "work")
        done = dag.test(run_conf=conf)
        return Run(str(done.state), {ti.task_id: str(ti.state) for ti in done.get_task_instances()})

    def stable(self, model: str) -> int | None:
        """Return the version that a client of label `stable` is answered by."""
        client = connect(self.target)
        try:
            return client.metadata(model, label="stable", timeout=60.0).version
        except NotFound:
            return None
        finally:
            client.close()

    def history(self, model: str) -> tuple[DeploymentRecord, ...]:
        return records.history(self.documents, "tests", model)


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    initdb()
    folder = tmp_path_factory.mktemp("group")
    (folder / "store").mkdir()
    with EmbeddedServer() as server, pytest.MonkeyPatch.context() as patch:
        extra = {"store": str(folder / "store"), "group": "tests", "startup_config": str(folder / "models.config")}
        told = {"conn_type": "tf_serving", "host": server.target, "extra": extra}
        patch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", json.dumps(told))
        yield Airflow(server.target, folder)


def test_retrain_and_deploy(airflow: Airflow) -> None:
    """A good model goes live, one that learned nonsense does not, and the reason is one sentence with numbers."""
    good = airflow.run("retrain_and_deploy", examples=200, epochs=8)
    assert good.state == "success"
    assert set(good.tasks.values()) == {"success"}
    assert airflow.stable("digits") == 1
    bad = airflow.run("retrain_and_deploy", examples=200, epochs=8, shuffle_labels=True)
    assert bad.state == "failed"
    assert bad.tasks["deploy.validate"] == "failed"
    assert bad.tasks["deploy.promote"] == "upstream_failed"
    assert airflow.stable("digits") == 1
    last = airflow.history("digits")[-1]
    assert (last.action.value, last.version) == ("rejected", 2)
    assert last.reason.startswith("Version 2 of model 'digits' failed gate accuracy: accuracy 0.")
    assert "floor 0.8000" in last.reason
    assert last.actor.startswith("retrain_and_deploy/manual__")
    assert last.actor.endswith(" by dag_test")
    promoted = next(entry for entry in airflow.history("digits") if entry.action.value == "promoted")
    assert promoted.measured["accuracy"] > 0.8


def test_deploy_checkpoint_and_roll_back(airflow: Airflow, shared_models: Path) -> None:
    """Two SavedModels that somebody else made, then back by default and forward by number; the load waits deferred."""
    for number, checkpoint in enumerate((PLUS_TWO_TF1, THREE), start=1):
        done = airflow.run(
            "deploy_checkpoint", deferrable=True, model="half", checkpoint=str(shared_models / checkpoint), warmup=0
        )
        assert set(done.tasks.values()) == {"success"}
        assert airflow.stable("half") == number
    assert airflow.run("rollback", model="half", reason="a test").state == "success"
    assert airflow.stable("half") == 1
    assert airflow.history("half")[-1].reason == "a test"
    assert airflow.run("rollback", model="half", to=2).state == "success"
    assert airflow.stable("half") == 2
    with create_session() as session:
        events = [
            (event.extra["action"], event.extra["version"])
            for event in session.query(AssetEvent).order_by(AssetEvent.id)
            if event.uri == "tfs-deploy://tests/half"
        ]
    assert events == [("promoted", 1), ("promoted", 2), ("rolled_back", 1), ("rolled_back", 2)]


def test_what_cannot_be_deployed_leaves_stable_alone(airflow: Airflow, shared_models: Path) -> None:
    model = "steady"
    live = {"model": model, "checkpoint": str(shared_models / TWO), "warmup": 0}
    assert airflow.run("deploy_checkpoint", **live).state == "success"
    lost = airflow.run("deploy_checkpoint", **{**live, "checkpoint": "nowhere.keras"})
    assert lost.tasks["export"] == "failed"
    again = airflow.run("deploy_checkpoint", **live)
    assert set(again.tasks.values()) == {"success"}
    assert airflow.stable(model) == 1
    assert [entry.version for entry in airflow.history(model) if entry.action.value == "published"] == [1]
    nothing = airflow.run("rollback", model=model)
    assert nothing.state == "failed"
    assert airflow.stable(model) == 1


def test_a_group_that_follows_the_latest(tmp_path: Path, shared_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gates run before publishing moves traffic; what fails them is never published."""
    store = open_store(str(tmp_path / "store"))
    staged = shared_models / TWO
    # A server with an empty base path opens no port, so the first version is put there before it is asked.
    store.publish(staged, manifests.build(staged, clock=SystemClock()), "half")
    flags = ("--model_name=half", f"--model_base_path={tmp_path / 'store' / 'half'}")
    write_golden(tmp_path / "golden", "half", [GoldenRequest("serving_default", {"x": X}, {"y": X / 2 + 2})])
    gates = {"golden": {"file": str(tmp_path / "golden")}, "signature": "false"}
    with EmbeddedServer((*flags, "--file_system_poll_wait_seconds=1")) as server:
        told = {"conn_type": "tf_serving", "host": server.target, "extra": {"store": store.uri, "mode": "latest"}}
        monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", json.dumps(told))
        with pytest.raises(AirflowFailException, match="failed gate golden"):
            deploy_operator(shared_models / THREE, gates).execute({})
        assert store.versions("half") == (1,)
        done = deploy_operator(shared_models / PLUS_TWO_TF1, gates).execute({})
        rollback = RollbackModelOperator(task_id="rollback", model="half", to=1)
        with pytest.raises(AirflowFailException, match="can only go one version back"):
            rollback.execute({})
    assert (done["version"], done["report"]["verdict"], done["record"]["action"]) == (2, "pass", "promoted")
    assert set(done["seconds"]) == {"validate_offline", "publish", "load", "validate"}


def deploy_operator(directory: Path, gates: dict[str, Any]) -> DeployModelOperator:
    return DeployModelOperator(task_id="deploy", model="half", saved_model=str(directory), gates=gates)
