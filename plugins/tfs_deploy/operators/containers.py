"""Containers that a task starts: whom they belong to, which runs are over, and validation in images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfs_deploy.containers.ownership import Owner, Process, Purpose
from tfs_deploy.operators.publish import directory_of

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import Context

    from tfs_deploy.clock import Clock
    from tfs_deploy.containers.model_server import ModelServerContainer
    from tfs_deploy.containers.options import ServerOptions
    from tfs_deploy.containers.ownership import RunIsAlive
    from tfs_deploy.store.protocol import Store
    from tfs_deploy.validation.config import Gates
    from tfs_deploy.validation.report import ValidationReport

logger = logging.getLogger(__name__)

_ALIVE_STATES = {"running", "queued"}
# A validation container may be removed after this time, whatever became of its worker.
_VALIDATION_HOURS = 24.0


def owner_for(context: Mapping[str, Any] | Context, purpose: Purpose, clock: Clock, *, hours: float) -> Owner:
    """Return the owner: this task of this run; a throw-away container also belongs to this process."""
    dag, run, task = names_of(context)
    until = 0 if purpose is Purpose.LONG_LIVED else int(clock.now().timestamp() + hours * 3600)
    return Owner(purpose, Process.current() if purpose is Purpose.THROW_AWAY else None, dag, run, task, until)


def names_of(context: Mapping[str, Any] | Context) -> tuple[str, str, str]:
    """Return DAG, run and task (with its map index) of `context`, empty where it has none."""
    ti, run = context.get("ti"), context.get("dag_run")
    task = ""
    if ti is not None:
        index = ti.map_index if ti.map_index is not None and ti.map_index >= 0 else None
        task = ti.task_id if index is None else f"{ti.task_id}/{index}"
    return (run.dag_id, run.run_id, task) if run is not None else ("", "", task)


def run_is_alive(context: Mapping[str, Any] | Context) -> RunIsAlive:
    """Return a function that tells whether a DAG run is running or queued; None where Airflow does not know."""
    ask = getattr(context.get("ti"), "get_dagrun_state", None)

    def alive(dag: str, run: str) -> bool | None:
        if ask is None:
            return None
        try:
            return str(ask(dag_id=dag, run_id=run)) in _ALIVE_STATES
        except Exception as error:
            # A run of another Airflow, or a deleted one: its containers are removed when their time is over.
            logger.info("Airflow does not know run %s of DAG %s: %s", run, dag, error)
            return None

    return alive


class ImageValidation:
    """One validation in throw-away containers of images; a signal handler may call `stop`."""

    def __init__(
        self,
        image: str | Sequence[str],
        server: Mapping[str, Any] | ServerOptions | None,
        docker_url: str,
        *,
        copy: bool,
    ) -> None:
        self._images = [image] if isinstance(image, str) else list(image)
        self._server = server or {}
        self._docker_url = docker_url
        self._copy = copy
        self._container: ModelServerContainer | None = None

    def of_directory(self, context: Context, saved_model: Any, model: str, gates: Gates) -> ValidationReport:
        """Validate a directory that is not published."""
        return self._validate(context, directory_of(saved_model), model, gates)

    def of_version(self, context: Context, store: Store, model: str, version: int, gates: Gates) -> ValidationReport:
        """Validate a version of the store; what lies in S3 is downloaded for it."""
        from tfs_deploy.deployment.offline_validation import files_of

        with files_of(store, model, version) as directory:
            return self._validate(context, directory, model, gates, version)

    def stop(self) -> None:
        """Stop the container that runs now."""
        if self._container is not None:
            self._container.stop()

    def _validate(
        self, context: Context, directory: Path, model: str, gates: Gates, version: int | None = None
    ) -> ValidationReport:
        from tfs_deploy.clock import SystemClock
        from tfs_deploy.containers.docker_engine import connect
        from tfs_deploy.containers.options import options_from
        from tfs_deploy.containers.ownership import Purpose
        from tfs_deploy.containers.runner import Delivery, runners_for
        from tfs_deploy.deployment.offline_validation import UNPUBLISHED, validate_in_each

        clock = SystemClock()
        runners = runners_for(
            self._images,
            options_from(self._server),
            delivery=Delivery.COPY if self._copy else Delivery.MOUNT,
            connect=lambda: connect(self._docker_url),
            clock=clock,
            owner=owner_for(context, Purpose.THROW_AWAY, clock, hours=_VALIDATION_HOURS),
            on_start=self._watch,
        )
        number = UNPUBLISHED if version is None else version
        return validate_in_each(directory, model, gates, runners=runners, clock=clock, version=number)

    def _watch(self, container: ModelServerContainer) -> None:
        self._container = container
