"""Train every day; a new model goes live only if it is at least as good as the live one.

A DAG to copy: put your own training into `train`, and keep the rest. It needs the connection `tf_serving_default`, and
a working directory that all workers share. The files of a run stay there until you remove them.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param, task

from tfs_deploy import ExportSavedModelOperator, deploy_model

WORK_DIR = str(Path(os.environ.get("AIRFLOW_HOME", "~/airflow"), "tfs_deploy").expanduser())

with DAG(
    dag_id="retrain_and_deploy",
    description="Train on handwritten digits, export, publish, load, validate, promote.",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    # Two deploys of one model at the same time would compare with each other's versions.
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "model": Param("digits", type="string", description="Name of the model in the store and on the servers."),
        "examples": Param(1297, type="integer", minimum=1, maximum=1297, description="How many digits to learn from."),
        "epochs": Param(10, type="integer", minimum=1, description="How often each is shown."),
        "seed": Param(1, type="integer", description="Start of the random numbers."),
        "shuffle_labels": Param(False, type="boolean", description="Teach nonsense, to see the gates refuse it."),
        "accuracy_floor": Param(0.8, type="number", minimum=0, maximum=1, description="Least share of right answers."),
        "allowed_drop": Param(
            0.02, type="number", minimum=0, maximum=1, description="How much worse than the live version is accepted."
        ),
        "keep": Param(5, type="integer", minimum=0, description="How many old versions stay in the store."),
        "tf_serving_conn_id": Param("tf_serving_default", type="string", description="The serving group."),
        "work_dir": Param(WORK_DIR, type="string", description="Directory for this run's files, on all workers."),
        "python": Param(
            "", type=["null", "string"], description="Interpreter that has TensorFlow; empty: Airflow's own."
        ),
    },
    tags=["tfs_deploy"],
    doc_md=__doc__,
):

    @task(multiple_outputs=True)
    def train(params: dict[str, Any], run_id: str, ti: Any) -> dict[str, Any]:
        """Train in a process of its own and in a directory per try."""
        from tfs_deploy.demo import digits

        # Run ids have colons, which many tools do not accept in a path.
        directory = Path(params["work_dir"], f"{run_id.replace(':', '')}-try{ti.try_number}")
        result = digits.train(
            directory,
            examples=params["examples"],
            epochs=params["epochs"],
            seed=params["seed"],
            shuffle_labels=params["shuffle_labels"],
            python=params["python"] or None,
        )
        return {**result, "saved_model": str(directory / "saved_model")}

    trained: Any = train()

    export = ExportSavedModelOperator(
        task_id="export",
        checkpoint=trained["checkpoint"],
        out=trained["saved_model"],
        options={
            # Compiled into the served graph, so that clients get the digit and not only its probabilities.
            "postprocess": "tfs_deploy.demo.digits:answer",
            "samples": trained["samples"],
            "warmup": 4,
            "golden": 4,
        },
        python="{{ params.python or '' }}",
    )

    deploy_model(
        model="{{ params.model }}",
        saved_model=export.output,
        gates={
            "accuracy": {
                "file": trained["labelled"],
                "output": "digit",
                "floor": "{{ params.accuracy_floor }}",
                "allowed_drop": "{{ params.allowed_drop }}",
            }
        },
        keep="{{ params.keep }}",
        tf_serving_conn_id="{{ params.tf_serving_conn_id }}",
        group_id="deploy",
    )
