"""Step label: a label besides `stable` and `previous`, for example `canary`, moves to a version or is removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfs_deploy.errors import InvalidInput
from tfs_deploy.jsonable import to_builtins
from tfs_deploy.operators.base import TFServingOperator, translate_errors, version_of

if TYPE_CHECKING:
    from airflow.sdk import Context


class LabelModelVersionOperator(TFServingOperator):
    """Set a label on a version that passed its gates, or remove it; running it again changes nothing.

    :param version_label: for example ``canary``; ``stable`` and ``previous`` move by promote and rollback only.
    :param version: a number, a template, or what another operator on this model returned.
    :param remove: remove the label instead; then without a version.
    :param reason: why, for the record; empty: the result of the gates.

    Returns the deployment record; None where there was no label to remove.
    """

    template_fields = (*TFServingOperator.template_fields, "version_label", "version", "reason")

    def __init__(
        self,
        *,
        version_label: str,
        version: int | str | Mapping[str, Any] | None = None,
        remove: bool = False,
        reason: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version_label = version_label
        self.version = version
        self.remove = remove
        self.reason = reason

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Move or remove the label and return the record."""
        from tfs_deploy.deployment.modes import steps_of

        with translate_errors():
            version = self._version()
        with self.step(context) as session:
            steps = steps_of(session)
            record = (
                steps.remove_label(session, self.model, self.version_label, reason=self.reason)
                if version is None
                else steps.set_label(session, self.model, self.version_label, version, reason=self.reason)
            )
        done: dict[str, Any] | None = None if record is None else to_builtins(record)
        return done

    def _version(self) -> int | None:
        """Return the version to label, None to remove the label; raise InvalidInput for both or neither."""
        if self.remove is not (self.version in (None, "", "None")):
            raise InvalidInput(
                f"The task on label {self.version_label!r} of model {self.model!r} has "
                f"{'both a version and remove' if self.remove else 'neither a version nor remove'}.",
                "Set version to set the label, or remove to remove it.",
            )
        return None if self.remove else version_of(self.version, self.model)
