"""Step undeploy: a group stops serving a model, or one version of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfs_deploy.jsonable import to_builtins
from tfs_deploy.operators.base import TFServingOperator, version_of

if TYPE_CHECKING:
    from airflow.sdk import Context


class UndeployModelOperator(TFServingOperator):
    """Stop serving a model, or one version that has no other to roll back to; requests for it fail from then on.

    :param version: only this version; None or empty: the whole model.
    :param reason: why, for the record.
    :param withdraw: take the versions out of the store, too; refused while another group serves one of them.

    Returns ``{model, versions, withdrawn, record}``.
    """

    template_fields = (*TFServingOperator.template_fields, "version", "reason")

    def __init__(
        self,
        *,
        version: int | str | Mapping[str, Any] | None = None,
        reason: str = "",
        withdraw: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.reason = reason
        self.withdraw = withdraw

    def execute(self, context: Context) -> dict[str, Any]:
        """Undeploy, and return what is served no more."""
        from tfs_deploy.deployment.modes import steps_of

        with self.step(context) as session:
            version = None if self.version in (None, "", "None") else version_of(self.version, self.model)
            done = steps_of(session).undeploy(session, self.model, version, reason=self.reason, withdraw=self.withdraw)
        undeployed: dict[str, Any] = to_builtins(done)
        return undeployed
