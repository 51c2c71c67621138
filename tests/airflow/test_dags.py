"""The DAG files and the package as Airflow reads them: complete, light, and with forms that refuse nonsense."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.sdk.definitions.param import process_params
from airflow.sdk.exceptions import ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization

from tfs_deploy import deploy_model

pytestmark = pytest.mark.airflow

DEPLOY = ["deploy.publish", "deploy.load", "deploy.validate", "deploy.promote"]
TASKS = {
    "retrain_and_deploy": ["train", "export", *DEPLOY, "deploy.retire"],
    "deploy_checkpoint": ["export", *DEPLOY],
    "rollback": ["rollback"],
}
# Nothing of ours may load these to read a DAG. Tornado is hidden first: tenacity, which Airflow imports, loads it.
HEAVY = ("tensorflow", "tensorflow_serving", "keras", "sklearn", "boto3", "docker", "tornado", "grpc", "numpy")
PARSE = """
import json, os, sys
sys.modules["tornado"] = None
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
del sys.modules["tornado"]
print(json.dumps({"errors": bag.import_errors, "dags": sorted(bag.dags), "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])


def test_all_files_parse(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert {name: dag.task_ids for name, dag in bag.dags.items()} == TASKS


def test_parsing_loads_nothing_heavy() -> None:
    """In a process of its own: this one has loaded much already."""
    done = subprocess.run([sys.executable, "-c", PARSE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["errors"] == {}
    assert told["dags"] == sorted(TASKS)
    assert [name for name in HEAVY if name in told["modules"]] == []
    assert "tfs_deploy.operators.promote" in told["modules"]
    # Airflow's loader must not have executed our files under bare names.
    assert not {"operators", "hooks", "serving", "tf_serving", "publish", "task_groups"} & set(told["modules"])


@pytest.mark.parametrize("name", TASKS)
def test_every_dag_is_serialized_as_it_is(bag: DagBag, name: str) -> None:
    again = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(bag.dags[name]))
    assert again.task_ids == bag.dags[name].task_ids


@pytest.mark.parametrize("name", TASKS)
def test_every_dag_runs_one_at_a_time_and_tells_what_its_parameters_are(bag: DagBag, name: str) -> None:
    dag = bag.dags[name]
    assert dag.max_active_runs == 1
    assert not dag.catchup
    assert dag.doc_md
    assert all(dag.params.get_param(key).description for key in dag.params)


def test_the_scheduled_dag_needs_no_form(bag: DagBag) -> None:
    dag = bag.dags["retrain_and_deploy"]
    dag.params.validate()
    assert dag.schedule == "@daily"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("retrain_and_deploy", {"examples": 0}),
        ("retrain_and_deploy", {"accuracy_floor": 1.5}),
        ("deploy_checkpoint", {"model": "half"}),
        ("deploy_checkpoint", {"model": "half", "checkpoint": "x", "kind": "onnx"}),
        ("rollback", {}),
        ("rollback", {"model": "half", "to": 0}),
    ],
)
def test_forms_refuse(bag: DagBag, name: str, values: dict[str, object]) -> None:
    dag = bag.dags[name]
    with pytest.raises(ParamValidationError):
        process_params(dag, dag.tasks[0], values, suppress_exception=False)


def edges(dag: DAG) -> set[tuple[str, str]]:
    return {(task.task_id, after) for task in dag.tasks for after in task.downstream_task_ids}


def test_task_group_for_labels() -> None:
    with DAG(dag_id="by_labels") as dag:
        done = deploy_model(model="half", saved_model="x", keep=2, group_id="half")
    assert done.operator.task_id == "half.promote"
    steps = ["half.publish", "half.load", "half.validate", "half.promote", "half.retire"]
    assert edges(dag) >= set(pairwise(steps))


def test_task_group_for_a_group_that_follows_the_latest() -> None:
    with DAG(dag_id="latest") as dag:
        done = deploy_model(model="half", saved_model="x", mode="latest")
        with pytest.raises(ValueError, match="Leave keep out"):
            deploy_model(model="half", saved_model="x", mode="latest", keep=2, group_id="other")
    assert dag.task_ids == ["deploy_model.deploy"]
    assert done.operator.task_id == "deploy_model.deploy"


def test_two_models_in_one_dag() -> None:
    with DAG(dag_id="two", default_args={"retries": 4}) as dag:
        deploy_model(model="a", saved_model="x", group_id="a") >> deploy_model(model="b", saved_model="y", group_id="b")
    assert ("a.promote", "b.promote") in edges(dag)
    assert {task.retries for task in dag.tasks} == {4}
