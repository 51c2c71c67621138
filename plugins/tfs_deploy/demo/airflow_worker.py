"""The process that runs Airflow: it reads one run per line from stdin and reports events on stdout, as JSON lines.

Airflow's own output to stdout and stderr goes to the log; the events go through a copy of stdout.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, TextIO


class TaskReporter:
    """Report the starts and ends of Airflow's task instances."""

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines
        self._started: dict[str, float] = {}

    def report(self, event: str, **more: Any) -> None:
        """Write one event."""
        self._lines.write(json.dumps({"event": event, **more}, default=str) + "\n")
        self._lines.flush()

    def begin_run(self) -> None:
        """Forget the tasks of the previous run."""
        self._started.clear()

    def running(self, task: str) -> None:
        """Report the start of `task`, once: a task that resumes after a trigger has started before."""
        if task not in self._started:
            self._started[task] = time.monotonic()
            self.report("task", task=task, state="running")

    def ended(self, task: str, state: str, error: object = None) -> None:
        """Report the end of `task` with its state, duration and error."""
        seconds = time.monotonic() - self._started.get(task, time.monotonic())
        self.report(
            "task", task=task, state=state, seconds=round(seconds, 3), error="" if error is None else str(error)
        )


def main() -> int:
    """Prepare the database, then run the DAGs that stdin names."""
    reporter = TaskReporter(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    from airflow.utils.db import initdb

    initdb()
    _listen(reporter)
    reporter.report("ready")
    for line in sys.stdin:
        request = json.loads(line)
        reporter.begin_run()
        _run(reporter, request["dag"], request["conf"])
    return 0


def _run(reporter: TaskReporter, dag_id: str, conf: dict[str, Any]) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk import conf as settings

    try:
        bag = DagBag(settings.get("core", "dags_folder"))
        dag = bag.get_dag(dag_id)
        if dag is None:
            errors = "; ".join(str(error).strip().splitlines()[-1] for error in bag.import_errors.values())
            reporter.report("done", state="failed", error=f"there is no DAG {dag_id}. {errors}".strip())
            return
        run = dag.test(run_conf=conf)
    except Exception as error:  # any error of a DAG: the demo reports it and goes on
        reporter.report("done", state="failed", error=f"{type(error).__name__}: {error}")
        raise
    reporter.report("done", state=str(getattr(run.state, "value", run.state)), error="")


def _listen(reporter: TaskReporter) -> None:
    from airflow.listeners import hookimpl
    from airflow.sdk.listener import get_listener_manager

    class Listener:
        @hookimpl
        def on_task_instance_running(self, previous_state: Any, task_instance: Any) -> None:
            reporter.running(task_instance.task_id)

        @hookimpl
        def on_task_instance_success(self, previous_state: Any, task_instance: Any) -> None:
            reporter.ended(task_instance.task_id, "success")

        @hookimpl
        def on_task_instance_skipped(self, previous_state: Any, task_instance: Any) -> None:
            reporter.ended(task_instance.task_id, "skipped")

        @hookimpl
        def on_task_instance_failed(self, previous_state: Any, task_instance: Any, error: Any) -> None:
            reporter.ended(task_instance.task_id, "failed", error)

    manager: Any = get_listener_manager()
    manager.add_listener(Listener())


if __name__ == "__main__":
    sys.exit(main())
