"""Step rollback: `stable` goes back to a version that is loaded already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfs_deploy.jsonable import to_builtins
from tfs_deploy.operators.base import TFServingOperator, idempotency_key_of, version_of
from tfs_deploy.operators.stable_asset import STABLE_MOVED, emit_asset_event

if TYPE_CHECKING:
    from airflow.sdk import Context


class RollbackModelOperator(TFServingOperator):
    """Go back to the version that was stable before, or to another one that is loaded and passed its gates.

    A retry after a crash is the same request, so it does not move `stable` forward again. In a group that serves the
    latest version by itself, the live version is withdrawn instead.

    :param to: the version to go to; None or empty: the previous one.
    :param reason: why, for the record.

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
        from tfs_deploy.deployment.modes import steps_of

        with self.step(context) as session:
            to = None if self.to in (None, "", "None") else version_of(self.to, self.model)
            key = idempotency_key_of(context)
            record = steps_of(session).rollback(session, self.model, to=to, reason=self.reason, idempotency_key=key)
        emit_asset_event(context, record)
        done: dict[str, Any] = to_builtins(record)
        return done
