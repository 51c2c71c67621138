"""All steps in one task, for a group that serves the latest version by itself or one with labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfs_deploy.jsonable import to_builtins
from tfs_deploy.operators.base import TFServingOperator, gates_of, idempotency_key_of, seconds_of, translate_errors
from tfs_deploy.operators.publish import directory_of, published_value
from tfs_deploy.operators.stable_asset import STABLE_MOVED, emit_asset_event
from tfs_deploy.operators.validate import report_value

if TYPE_CHECKING:
    from airflow.sdk import Context


class DeployModelOperator(TFServingOperator):
    """Deploy a SavedModel by the protocol of the group's mode; running it again with the same bytes continues.

    Mode ``labels``: publish, load, validate, promote. Mode ``latest``: every gate on a throw-away embedded model
    server, then publish, wait and validate again on every replica; a version that fails there is withdrawn. (Before
    the first version such servers have no open port, so no replica is asked.)

    :param saved_model: the directory, or what `ExportSavedModelOperator` returned.
    :param gates: a gates file, or its contents as a dict; None: the gates that need no file.
    :param wait_seconds: how long a load may take.
    :param python: an interpreter that has TensorFlow, for the throw-away model server; empty: Airflow's own.

    Returns what `PublishModelOperator` returns, plus ``report``, ``record`` and ``seconds`` per step.
    """

    template_fields = (*TFServingOperator.template_fields, "saved_model", "gates", "wait_seconds", "python")

    def __init__(
        self,
        *,
        saved_model: str | Mapping[str, Any],
        gates: str | Mapping[str, Any] | None = None,
        wait_seconds: float | str = 300.0,
        python: str = "",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("outlets", [STABLE_MOVED])
        super().__init__(**kwargs)
        self.saved_model = saved_model
        self.gates = gates
        self.wait_seconds = wait_seconds
        self.python = python

    def execute(self, context: Context) -> dict[str, Any]:
        """Deploy, and return the version, the report and the record."""
        from tfs_deploy.deployment.modes import steps_of
        from tfs_deploy.serving.runner import EmbeddedRunner
        from tfs_deploy.serving.waiting import WaitLimits

        with translate_errors():
            staged, gates = directory_of(self.saved_model), gates_of(self.gates)
            limits = WaitLimits(load=seconds_of(self.wait_seconds, "wait_seconds"))
        with self.step(context, wait=limits) as session:
            done = steps_of(session).deploy(
                session,
                staged,
                self.model,
                gates,
                make_runner=lambda: EmbeddedRunner(python=self.python or None),
                idempotency_key=idempotency_key_of(context),
            )
        emit_asset_event(context, done.record)
        return {
            **published_value(done.published),
            "report": report_value(done.report),
            "record": to_builtins(done.record),
            "seconds": done.seconds,
        }
