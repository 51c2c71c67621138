"""Start and stop a model server in a container, as setup and teardown of the tasks that need it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from tfs_deploy.operators.base import seconds_of, translate_errors
from tfs_deploy.operators.containers import names_of, owner_for, run_is_alive

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tfs_deploy.containers.engine import ContainerEngine
    from tfs_deploy.containers.model_server import ModelServerContainer
    from tfs_deploy.containers.options import ServerOptions


class StartModelServerOperator(BaseOperator):
    """Start a model server in a container and wait until its ports listen.

    A retry replaces the container of the try before. Containers of runs that are over are removed first.
    Needs the package `docker`.

    :param server: a `ServerOptions`, or its fields as a dict.
    :param docker_url: the engine; empty: what ``DOCKER_HOST`` says, or the local socket.
    :param long_lived: keep it when the run is over; otherwise it may be removed then, or after `max_hours`.
    :param start_seconds: how long the ports may take to open, the load of the first versions included.

    Returns ``{grpc, rest, container, name, instance}``, the first two as host:port.
    """

    template_fields = ("server", "docker_url", "start_seconds")
    ui_color = "#e3f2fd"

    def __init__(
        self,
        *,
        server: Mapping[str, Any] | ServerOptions,
        docker_url: str = "",
        long_lived: bool = False,
        max_hours: float = 24.0,
        start_seconds: float | str = 300.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.server = server
        self.docker_url = docker_url
        self.long_lived = long_lived
        self.max_hours = max_hours
        self.start_seconds = start_seconds
        self._starting: ModelServerContainer | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Start the container and return its addresses."""
        from tfs_deploy.clock import SystemClock
        from tfs_deploy.containers.docker_engine import connect
        from tfs_deploy.containers.model_server import ModelServerContainer
        from tfs_deploy.containers.options import options_from
        from tfs_deploy.containers.ownership import Purpose, reap

        clock = SystemClock()
        purpose = Purpose.LONG_LIVED if self.long_lived else Purpose.RUN
        with translate_errors():
            container = ModelServerContainer(
                options_from(self.server),
                owner_for(context, purpose, clock, hours=self.max_hours),
                connect=lambda: connect(self.docker_url),
                clock=clock,
                start_seconds=seconds_of(self.start_seconds, "start_seconds"),
            )
            engine = connect(self.docker_url)
            try:
                _remove(engine, names_of(context))
                reap(engine, clock=clock, run_is_alive=run_is_alive(context))
            finally:
                engine.close()
            self._starting = container
            running = container.start()
            self._starting = None
        return dataclasses.asdict(running)

    def on_kill(self) -> None:
        """Stop the container that this try is starting."""
        if self._starting is not None:
            self._starting.stop()


class StopModelServerOperator(BaseOperator):
    """Stop and remove the container of a `StartModelServerOperator` of the same run; no container is no error.

    As a teardown: ``start >> use_it >> stop.as_teardown(setups=start)``. It finds containers by their labels, so it
    also removes the container of a start task that was killed half-way.

    :param server_task_id: the task that started it.
    :param name: instead of that, the name of a long-lived container of any run.

    Returns the names of the containers that were removed.
    """

    template_fields = ("server_task_id", "name", "docker_url")
    ui_color = "#e3f2fd"

    def __init__(self, *, server_task_id: str = "", name: str = "", docker_url: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server_task_id = server_task_id
        self.name = name
        self.docker_url = docker_url

    def execute(self, context: Context) -> list[str]:
        """Stop and remove the container."""
        from tfs_deploy.containers.docker_engine import connect
        from tfs_deploy.errors import InvalidInput

        with translate_errors():
            if bool(self.server_task_id) == bool(self.name):
                raise InvalidInput("Neither or both of server_task_id and name are given.", "Give one of them.")
            engine = connect(self.docker_url)
            try:
                dag, run, task = names_of(context)
                mapped = task.partition("/")[2]
                started = f"{self.server_task_id}/{mapped}" if mapped else self.server_task_id
                return _remove(engine, (dag, run, started), name=self.name)
            finally:
                engine.close()


def _remove(engine: ContainerEngine, task: tuple[str, str, str], *, name: str = "") -> list[str]:
    from tfs_deploy.containers.ownership import DAG_LABEL, PROJECT, PROJECT_LABEL, RUN_LABEL, TASK_LABEL

    labels = {PROJECT_LABEL: PROJECT}
    if not name:
        labels |= dict(zip((DAG_LABEL, RUN_LABEL, TASK_LABEL), task, strict=True))
    containers = [each for each in engine.find(labels) if (each.name == name if name else all(task))]
    for container in containers:
        engine.stop(container.id)
        engine.remove(container.id)
    return [container.name for container in containers]
