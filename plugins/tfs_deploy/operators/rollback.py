"""Step rollback: `stable` goes back; no load, no bytes, one RPC per replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfs_deploy.errors import Refused
from tfs_deploy.jsonable import to_builtins
from tfs_deploy.operators.base import TFServingOperator, request_of, version_of
from tfs_deploy.operators.stable_asset import STABLE_MOVED, emit_asset_event
from tfs_deploy.serving.group import Mode

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tfs_deploy.deployment.records import DeploymentRecord
    from tfs_deploy.deployment.session import GroupSession


class RollbackModelOperator(TFServingOperator):
    """Go back to the version that was stable before, or to another one that is loaded and passed its gates.

    A retry after a crash is the same request, so it does not go forward again. In a group that serves the latest
    version by itself, the live version is withdrawn instead.

    :param to: the version to go to; None or empty: the previous one.
    :param reason: what the record says.

    Returns the deployment record.
    """

    template_fields = (*TFServingOperator.template_fields, "to", "reason")

    def __init__(self, *, to: int | str | None = None, reason: str = "", **kwargs: Any) -> None:
        kwargs.setdefault("outlets", [STABLE_MOVED])
        super().__init__(**kwargs)
        self.to = to
        self.reason = reason

    def execute(self, context: Context) -> dict[str, Any]:
        """Move the label back and return the record."""
        with self.step(context) as session:
            to = None if self.to in (None, "", "None") else version_of(self.to, self.model)
            record = _rollback(session, self.model, to, self.reason, request_of(context))
        emit_asset_event(context, record)
        done: dict[str, Any] = to_builtins(record)
        return done


def _rollback(session: GroupSession, model: str, to: int | None, reason: str, request: str) -> DeploymentRecord:
    from tfs_deploy.deployment.modes.latest import rollback_latest
    from tfs_deploy.deployment.steps.rollback import rollback

    if session.group.mode is Mode.LABELS:
        return rollback(session, model, to=to, reason=reason, request=request)
    if to is not None:
        raise Refused(
            f"Group {session.group.name!r} serves the latest version by itself, so it can only go one version back.",
            "Leave the version to go to out.",
        )
    return rollback_latest(session, model, reason=reason, request=request)
