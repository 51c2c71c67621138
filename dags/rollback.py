"""Go back to the version that was stable before, or to a given one; a DAG to start by hand."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from tfs_deploy import RollbackModelOperator

with DAG(
    dag_id="rollback",
    description="Move label stable back; nothing is loaded or copied.",
    schedule=None,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=5)},
    params={
        "model": Param("", type="string", minLength=1, description="Name in the store and on the servers."),
        "to": Param(None, type=["null", "integer"], minimum=1, description="Version; empty: the previous one."),
        "reason": Param("", type=["null", "string"], description="Why, for the record."),
        "tf_serving_conn_id": Param("tf_serving_default", type="string", description="The serving group."),
    },
    tags=["tfs_deploy"],
    doc_md=__doc__,
):
    RollbackModelOperator(
        task_id="rollback",
        model="{{ params.model }}",
        to="{{ params.to or '' }}",
        reason="{{ params.reason or '' }}",
        tf_serving_conn_id="{{ params.tf_serving_conn_id }}",
    )
