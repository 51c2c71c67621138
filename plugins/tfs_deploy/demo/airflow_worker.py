"""The process that holds Airflow: reads one run per line from stdin, tells on stdout what happens, as JSON lines.

Airflow writes to stdout and stderr as it likes; both end in the log, and the lines go through a copy of stdout.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, TextIO


class Teller:
    """Listens to Airflow's task instances and tells their beginnings and ends."""

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines
        self._began: dict[str, float] = {}

    def tell(self, event: str, **more: Any) -> None:
        """Write one line."""
        self._lines.write(json.dumps({"event": event, **more}, default=str) + "\n")
        self._lines.flush()

    def begin_run(self) -> None:
        """Forget the tasks of the run before."""
        self._began.clear()

    def running(self, task: str) -> None:
        """Tell that `task` began; one that comes back from a trigger began before."""
        if task not in self._began:
            self._began[task] = time.monotonic()
            self.tell("task", task=task, state="running")

    def ended(self, task: str, state: str, error: object = None) -> None:
        """Tell that `task` ended in `state`, after how long, and why if it failed."""
        seconds = time.monotonic() - self._began.get(task, time.monotonic())
        self.tell("task", task=task, state=state, seconds=round(seconds, 3), error="" if error is None else str(error))


def main() -> int:
    """Prepare the database, then run what stdin asks for until it ends."""
    teller = Teller(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    from airflow.utils.db import initdb

    initdb()
    _listen(teller)
    teller.tell("ready")
    for line in sys.stdin:
        wish = json.loads(line)
        teller.begin_run()
        _run(teller, wish["dag"], wish["conf"])
    return 0


def _run(teller: Teller, dag_id: str, conf: dict[str, Any]) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk import conf as settings

    try:
        bag = DagBag(settings.get("core", "dags_folder"))
        dag = bag.get_dag(dag_id)
        if dag is None:
            told = "; ".join(str(error).strip().splitlines()[-1] for error in bag.import_errors.values())
            teller.tell("done", state="failed", error=f"there is no DAG {dag_id}. {told}".strip())
            return
        run = dag.test(run_conf=conf)
    except Exception as error:  # whatever a DAG raises: the demo says it and goes on to its end
        teller.tell("done", state="failed", error=f"{type(error).__name__}: {error}")
        raise
    teller.tell("done", state=str(getattr(run.state, "value", run.state)), error="")


def _listen(teller: Teller) -> None:
    from airflow.listeners import hookimpl
    from airflow.sdk.listener import get_listener_manager

    class Listener:
        @hookimpl
        def on_task_instance_running(self, previous_state: Any, task_instance: Any) -> None:
            teller.running(task_instance.task_id)

        @hookimpl
        def on_task_instance_success(self, previous_state: Any, task_instance: Any) -> None:
            teller.ended(task_instance.task_id, "success")

        @hookimpl
        def on_task_instance_skipped(self, previous_state: Any, task_instance: Any) -> None:
            teller.ended(task_instance.task_id, "skipped")

        @hookimpl
        def on_task_instance_failed(self, previous_state: Any, task_instance: Any, error: Any) -> None:
            teller.ended(task_instance.task_id, "failed", error)

    manager: Any = get_listener_manager()
    manager.add_listener(Listener())


if __name__ == "__main__":
    sys.exit(main())
