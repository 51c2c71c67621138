"""Deploy one staged model of the worker's own disk: the DAG that the scale test starts many times at once."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG

from tfs_deploy import deploy_model

# The worker reads the file that it has itself; no other process needs it.
DISK = os.environ.get("WORKER_DISK", "/nowhere")

for name, retries in (("deploy_once", 0), ("deploy_with_retries", 5)):
    with DAG(
        dag_id=name,
        schedule=None,
        max_active_runs=100,
        default_args={"retries": retries, "retry_delay": timedelta(seconds=2)},
        params={"model": "", "staged": "", "compare": False},
    ):
        deploy_model(
            model="{{ params.model }}",
            saved_model=DISK + "/staged/{{ params.staged }}",
            gates={"accuracy": {"file": DISK + "/staged/labelled.npz", "compare_live": "{{ params.compare }}"}},
            deferrable=True,
        )
