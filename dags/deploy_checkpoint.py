"""Deploy an existing checkpoint or SavedModel; a DAG to start by hand, with a form."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Param

from tfs_deploy import ExportSavedModelOperator, deploy_model

WORK_DIR = str(Path(os.environ.get("AIRFLOW_HOME", "~/airflow"), "tfs_deploy").expanduser())
KINDS = ["auto", "keras", "keras_weights", "tf_checkpoint", "tf1_graph", "frozen_graph", "saved_model"]

with DAG(
    dag_id="deploy_checkpoint",
    description="Export a checkpoint, publish, load, validate, promote.",
    schedule=None,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "model": Param("", type="string", minLength=1, description="Name in the store and on the servers."),
        "checkpoint": Param(
            "",
            type="string",
            minLength=1,
            description="A .keras or .h5 file, a checkpoint prefix, a frozen .pb graph, or a SavedModel directory.",
        ),
        "kind": Param("auto", type="string", enum=KINDS, description="auto: by the path."),
        "builder": Param(
            "", type=["null", "string"], description="module:function that builds the model for a file of weights."
        ),
        "search_path": Param(
            "", type=["null", "string"], description="Directories of the builder's module, with commas."
        ),
        "moving_average_decay": Param(
            None, type=["null", "number"], description="Restore moving averages (TensorFlow 1 checkpoints only)."
        ),
        "signature": Param("serving_default", type="string", minLength=1, description="Name of the signature."),
        "inputs": Param(
            "", type=["null", "string"], description="Names for the inputs, with commas; empty: the model's own."
        ),
        "outputs": Param(
            "", type=["null", "string"], description="Names for the outputs, with commas; empty: the model's own."
        ),
        "postprocess": Param(
            "", type=["null", "string"], description="module:function that is compiled in after the model."
        ),
        "samples": Param(
            "", type=["null", "string"], description=".npz of sample inputs, for warm-up and golden requests."
        ),
        "warmup": Param(1, type="integer", minimum=0, maximum=1000, description="How many warm-up requests to write."),
        "golden": Param(0, type="integer", minimum=0, description="How many golden requests to record from samples."),
        "gates": Param(
            "", type=["null", "string"], description="Gates file (YAML); empty: the gates that need no file."
        ),
        "tf_serving_conn_id": Param("tf_serving_default", type="string", description="The serving group."),
        "work_dir": Param(WORK_DIR, type="string", description="Directory for this run's files, on all workers."),
        "python": Param(
            "", type=["null", "string"], description="Interpreter that has TensorFlow; empty: Airflow's own."
        ),
    },
    tags=["tfs_deploy"],
    doc_md=__doc__,
):
    export = ExportSavedModelOperator(
        task_id="export",
        checkpoint="{{ params.checkpoint }}",
        out="{{ params.work_dir }}/{{ run_id | replace(':', '') }}-try{{ ti.try_number }}/saved_model",
        kind="{{ params.kind }}",
        builder="{{ params.builder or '' }}",
        moving_average_decay="{{ params.moving_average_decay or '' }}",
        options={
            "signature": "{{ params.signature }}",
            "inputs": "{{ params.inputs or '' }}",
            "outputs": "{{ params.outputs or '' }}",
            "postprocess": "{{ params.postprocess or '' }}",
            "samples": "{{ params.samples or '' }}",
            "warmup": "{{ params.warmup }}",
            "golden": "{{ params.golden }}",
            "search_path": "{{ params.search_path or '' }}",
        },
        python="{{ params.python or '' }}",
    )

    deploy_model(
        model="{{ params.model }}",
        saved_model=export.output,
        gates="{{ params.gates or '' }}",
        tf_serving_conn_id="{{ params.tf_serving_conn_id }}",
        group_id="deploy",
    )
