"""Step reconcile: replicas that do not serve what they should are brought to the desired state of their group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfs_deploy.jsonable import to_builtins
from tfs_deploy.operators.base import ServingGroupOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class ReconcileServingGroupOperator(ServingGroupOperator):
    """Bring replicas that were away during a rollback, restarted empty or were changed by hand to the desired state.

    Returns ``{group, replicas}``, the latter with the first difference of each replica before.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Compare every replica and correct those that differ."""
        from tfs_deploy.deployment.modes import steps_of

        with self.step(context) as session:
            done: dict[str, Any] = to_builtins(steps_of(session).reconcile(session))
            return done
