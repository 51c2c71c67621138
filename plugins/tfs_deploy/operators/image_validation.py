"""Validation in throw-away containers of one image or several, for an operator that can be killed meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfs_deploy.operators.container_owner import owner_for
from tfs_deploy.operators.publish import directory_of

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import Context

    from tfs_deploy.containers.model_server import ModelServerContainer
    from tfs_deploy.containers.options import ServerOptions
    from tfs_deploy.store.protocol import Store
    from tfs_deploy.validation.config import Gates
    from tfs_deploy.validation.report import ValidationReport

# Nobody validates for longer, whatever became of the worker.
_HOURS = 24.0


class ImageValidation:
    """One validation in images; `stop` may come from a signal handler."""

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
        from tfs_deploy.containers.labels import Purpose
        from tfs_deploy.containers.options import options_from
        from tfs_deploy.containers.runner import Delivery, runners_for
        from tfs_deploy.deployment.offline_validation import UNPUBLISHED, validate_in_each

        clock = SystemClock()
        runners = runners_for(
            self._images,
            options_from(self._server),
            delivery=Delivery.COPY if self._copy else Delivery.MOUNT,
            connect=lambda: connect(self._docker_url),
            clock=clock,
            owner=owner_for(context, Purpose.THROW_AWAY, clock, hours=_HOURS),
            on_start=self._watch,
        )
        number = UNPUBLISHED if version is None else version
        return validate_in_each(directory, model, gates, runners=runners, clock=clock, version=number)

    def _watch(self, container: ModelServerContainer) -> None:
        self._container = container
