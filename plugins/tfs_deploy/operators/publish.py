"""Step publish: a SavedModel becomes a version in the store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfs_deploy.errors import InvalidInput
from tfs_deploy.operators.base import TFServingOperator, gates_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tfs_deploy.store.protocol import Published


class PublishModelOperator(TFServingOperator):
    """Publish a SavedModel directory; the same bytes again give the version that exists, and copy nothing.

    Refused for a group that serves the latest version by itself: there, publishing is going live, and the gates come
    first (`DeployModelOperator`).

    :param saved_model: the directory, or what `ExportSavedModelOperator` returned.
    :param gates: the gates that the version will meet; a mistake in them fails the task before anything is published.

    Returns ``{model, version, fingerprint, uri, uploaded_bytes, created}``.
    """

    template_fields = (*TFServingOperator.template_fields, "saved_model", "gates")

    def __init__(
        self,
        *,
        saved_model: str | Mapping[str, Any],
        gates: str | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.saved_model = saved_model
        self.gates = gates

    def execute(self, context: Context) -> dict[str, Any]:
        """Publish, and return the version."""
        from tfs_deploy.deployment.modes import steps_of

        with self.step(context) as session:
            gates = None if self.gates is None else gates_of(self.gates)
            staged = directory_of(self.saved_model)
            return published_value(steps_of(session).publish(session, staged, self.model, gates=gates))


def directory_of(saved_model: Any) -> Path:
    """Return the directory from a path, or from what an export returned."""
    path = saved_model.get("path") if isinstance(saved_model, Mapping) else saved_model
    if not isinstance(path, str) or not path:
        raise InvalidInput(f"The SavedModel {saved_model!r} is not a path.", "Give the directory of a SavedModel.")
    return Path(path)


def published_value(published: Published) -> dict[str, Any]:
    """Return `published` as one flat dict, for an XCom."""
    version = published.version
    return {
        "model": version.model,
        "version": version.version,
        "fingerprint": version.fingerprint,
        "uri": version.uri,
        "uploaded_bytes": published.uploaded_bytes,
        "created": published.created,
    }
