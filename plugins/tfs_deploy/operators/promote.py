"""Step promote: label `stable` moves to a version that passed its gates, on all replicas or on none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfs_deploy.jsonable import to_builtins
from tfs_deploy.operators.base import TFServingOperator, idempotency_key_of, translate_errors, version_of
from tfs_deploy.operators.stable_asset import STABLE_MOVED, emit_asset_event

if TYPE_CHECKING:
    from airflow.sdk import Context


class PromoteModelVersionOperator(TFServingOperator):
    """Promote a validated version; promoting the version that is stable already changes nothing.

    A retry or a cleared task is refused after another move of `stable`, which it would undo.

    Adds an event to the asset ``tfs-deploy://<group>/<model>``, so that other DAGs can be scheduled on it.

    :param version: a number, a template, or what another operator on this model returned.
    :param version_label: the label to move; another than ``stable``, for example ``canary``, leaves ``stable`` where it
        is, and adds no event.
    :param reason: why, for the record; empty: the result of the gates.
    :param quorum: how many replicas are enough for ``stable``; None: all of them.

    Returns the deployment record.
    """

    template_fields = (*TFServingOperator.template_fields, "version", "version_label", "reason")

    def __init__(
        self,
        *,
        version: int | str | Mapping[str, Any],
        version_label: str = "stable",
        reason: str = "",
        quorum: int | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("outlets", [STABLE_MOVED])
        super().__init__(**kwargs)
        self.version = version
        self.version_label = version_label
        self.reason = reason
        self.quorum = quorum

    def execute(self, context: Context) -> dict[str, Any]:
        """Move the label and return the record."""
        from tfs_deploy.deployment.desired_state import STABLE
        from tfs_deploy.deployment.modes import steps_of

        with translate_errors():
            version = version_of(self.version, self.model)
        with self.step(context) as session:
            steps = steps_of(session)
            if self.version_label != STABLE:
                record = steps.set_label(session, self.model, self.version_label, version, reason=self.reason)
            else:
                key = idempotency_key_of(context)
                record = steps.promote(
                    session, self.model, version, reason=self.reason, idempotency_key=key, quorum=self.quorum
                )
        if self.version_label == STABLE:
            emit_asset_event(context, record)
        done: dict[str, Any] = to_builtins(record)
        return done
