"""Step bake: a canary is compared with the stable version for a time; one that fails loses its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook, conf

from tfs_deploy.errors import Inconclusive, ValidationFailed
from tfs_deploy.jsonable import from_builtins, to_builtins
from tfs_deploy.operators.base import TFServingOperator, seconds_of, translate_errors
from tfs_deploy.yamlfile import check_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tfs_deploy.deployment.bake_decision import BakeDecision
    from tfs_deploy.deployment.session import GroupSession
    from tfs_deploy.deployment.steps.bake import Bake

# The trigger ends the bake by itself; Airflow's timeout is for a triggerer that died.
_TRIGGERER_MARGIN_SECONDS = 120.0


class BakeModelVersionOperator(TFServingOperator):
    """Compare the version under a label with the stable one, by error rate and latency; fails if it does worse.

    A canary that failed loses its label. Too few requests, or a gateway without an answer, decide nothing: the task
    fails, and a retry begins anew.

    :param metrics: the metrics of each gateway, ``http://HOST:PORT/metrics``: a list, or text with commas.
    :param version_label: the label of the canary.
    :param bake_seconds: how long it is watched.
    :param limits: fields of `BakeLimits`; what is left out keeps its default.
    :param gateway_conn_id: a connection whose password is the gateways' API key.
    :param deferrable: watch in the triggerer, without a worker slot.

    Returns the report.
    """

    template_fields = (*TFServingOperator.template_fields, "metrics", "version_label", "bake_seconds", "limits")

    def __init__(
        self,
        *,
        metrics: str | Sequence[str],
        version_label: str = "canary",
        bake_seconds: float | str = 600.0,
        limits: Mapping[str, Any] | None = None,
        gateway_conn_id: str = "",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.metrics = metrics
        self.version_label = version_label
        self.bake_seconds = bake_seconds
        self.limits = limits
        self.gateway_conn_id = gateway_conn_id
        self.deferrable = deferrable

    def execute(self, context: Context) -> dict[str, Any]:
        """Begin the bake, then watch it here or in the triggerer."""
        from tfs_deploy.deployment.bake_decision import BakeLimits
        from tfs_deploy.deployment.gateway_metrics import http_fetch
        from tfs_deploy.deployment.steps import bake as step
        from tfs_deploy.triggers.bake import BakeTrigger

        with translate_errors():
            seconds = seconds_of(self.bake_seconds, "bake_seconds")
            limits = check_settings(self.limits or {}, BakeLimits, subject="The argument limits", strict=False)
        addresses = self.metrics.split(",") if isinstance(self.metrics, str) else self.metrics
        fetch = http_fetch(self._api_key())
        with self.step(context) as session:
            bake = step.begin(
                session,
                self.model,
                self.version_label,
                addresses=addresses,
                seconds=seconds,
                limits=limits,
                fetch=fetch,
            )
            if not self.deferrable:
                return self._finish(session, bake, step.watch(session, bake, fetch))
        kept = to_builtins(bake)
        self.defer(
            trigger=BakeTrigger(bake=kept, gateway_conn_id=self.gateway_conn_id, interval=step.INTERVAL_SECONDS),
            method_name="execute_complete",
            kwargs={"bake": kept},
            timeout=timedelta(seconds=seconds + _TRIGGERER_MARGIN_SECONDS),
        )

    def execute_complete(self, context: Context, event: Mapping[str, Any], *, bake: dict[str, Any]) -> dict[str, Any]:
        """Finish with the decision of the trigger."""
        from tfs_deploy.deployment.bake_decision import BakeDecision
        from tfs_deploy.deployment.steps.bake import Bake

        with self.step(context) as session:
            return self._finish(session, from_builtins(Bake, bake), from_builtins(BakeDecision, event))

    def _finish(self, session: GroupSession, bake: Bake, decision: BakeDecision) -> dict[str, Any]:
        from tfs_deploy.deployment.steps.bake import finish
        from tfs_deploy.validation.report import Verdict

        report = finish(session, bake, decision)
        if report.verdict is Verdict.INCONCLUSIVE:
            raise Inconclusive(report.reason, "Bake it longer, or with more traffic.")
        if report.verdict is Verdict.FAIL:
            label = f"Label {report.label} was removed" if report.label_removed else "The label stays where it is"
            raise ValidationFailed(report.reason, f"{label}; the stable version was not touched.")
        done: dict[str, Any] = to_builtins(report)
        return done

    def _api_key(self) -> str:
        return (BaseHook.get_connection(self.gateway_conn_id).password or "") if self.gateway_conn_id else ""
