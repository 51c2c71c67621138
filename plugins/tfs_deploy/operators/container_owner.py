"""Whose a container is that a task starts, and which DAG runs are over: Airflow's half of the labels and the reaper."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfs_deploy.containers.labels import Owner, Process, Purpose

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tfs_deploy.clock import Clock
    from tfs_deploy.containers.reaper import RunIsAlive

logger = logging.getLogger(__name__)

_ALIVE = {"running", "queued"}


def owner_for(context: Mapping[str, Any] | Context, purpose: Purpose, clock: Clock, *, hours: float) -> Owner:
    """Return the owner: this task of this run; a throw-away container also belongs to this process."""
    dag, run, task = names_of(context)
    until = 0 if purpose is Purpose.LONG_LIVED else int(clock.now().timestamp() + hours * 3600)
    return Owner(purpose, Process.this() if purpose is Purpose.THROW_AWAY else None, dag, run, task, until)


def names_of(context: Mapping[str, Any] | Context) -> tuple[str, str, str]:
    """Return DAG, run and task (with its map index) of `context`, empty where it has none."""
    ti, run = context.get("ti"), context.get("dag_run")
    task = ""
    if ti is not None:
        index = ti.map_index if ti.map_index is not None and ti.map_index >= 0 else None
        task = ti.task_id if index is None else f"{ti.task_id}/{index}"
    return (run.dag_id, run.run_id, task) if run is not None else ("", "", task)


def run_is_alive(context: Mapping[str, Any] | Context) -> RunIsAlive:
    """Return what asks Airflow whether a run goes on; it answers None where Airflow does not tell."""
    ask = getattr(context.get("ti"), "get_dagrun_state", None)

    def alive(dag: str, run: str) -> bool | None:
        if ask is None:
            return None
        try:
            return str(ask(dag_id=dag, run_id=run)) in _ALIVE
        except Exception as error:
            # Another Airflow's run, or one that was deleted: its containers end with their time.
            logger.info("Airflow does not tell about run %s of DAG %s: %s", run, dag, error)
            return None

    return alive
