"""Step reject: a version that fails a check outside of the gates is withdrawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfs_deploy.operators.base import TFServingOperator, version_of

if TYPE_CHECKING:
    from airflow.sdk import Context


class RejectModelVersionOperator(TFServingOperator):
    """Unload a version everywhere and withdraw it from the store; refused for a version that carries a label.

    :param version: a number, a template, or what another operator on this model returned.
    :param reason: one sentence for the record.

    Returns ``{model, version, reason}``.
    """

    template_fields = (*TFServingOperator.template_fields, "version", "reason")

    def __init__(self, *, version: int | str | Mapping[str, Any], reason: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.reason = reason

    def execute(self, context: Context) -> dict[str, Any]:
        """Reject the version."""
        from tfs_deploy.deployment.modes import steps_of

        with self.step(context) as session:
            version = version_of(self.version, self.model)
            steps_of(session).reject(session, self.model, version, reason=self.reason)
        return {"model": self.model, "version": version, "reason": self.reason}
