"""Step validate: every gate on every replica; a version that fails is rejected with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfs_deploy.errors import ValidationFailed
from tfs_deploy.operators.base import TFServingOperator, version_of
from tfs_deploy.operators.failures import told_to_airflow
from tfs_deploy.operators.gates_argument import gates_of
from tfs_deploy.operators.taking_back import fail_and_take_back

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tfs_deploy.validation.verdict import ValidationReport


class ValidateModelVersionOperator(TFServingOperator):
    """Validate a loaded version; fails with one sentence that names the gate and its numbers.

    An inconclusive verdict (a replica that does not answer) is worth a retry, and rejects nothing.

    :param version: a number, a template, or what another operator on this model returned.
    :param gates: a gates file, or its contents as a dict; None: the gates that need no file.
    :param reject_on_failure: unload a version that failed and withdraw it from the store.

    Returns ``{model, version, fingerprint, verdict, reason, measured, replicas, seconds}``.
    """

    template_fields = (*TFServingOperator.template_fields, "version", "gates")

    def __init__(
        self,
        *,
        version: int | str | Mapping[str, Any],
        gates: str | Mapping[str, Any] | None = None,
        reject_on_failure: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.gates = gates
        self.reject_on_failure = reject_on_failure

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the gates and return the passing report."""
        from tfs_deploy.deployment.validate import validate
        from tfs_deploy.validation.run import require_pass

        with told_to_airflow():
            version, gates = version_of(self.version, self.model), gates_of(self.gates)
        with self.step(context) as session:
            report = validate(session, self.model, version, gates)
            try:
                require_pass(report)
            except ValidationFailed as error:
                if self.reject_on_failure:
                    fail_and_take_back(session, self.model, version, error)
                raise
            return report_value(report)


def report_value(report: ValidationReport) -> dict[str, Any]:
    """Return the gist of `report` as one flat dict, for an XCom; the store keeps all of it."""
    return {
        "model": report.model,
        "version": report.version,
        "fingerprint": report.fingerprint,
        "verdict": report.verdict.value,
        "reason": report.reason(),
        "measured": report.measured(),
        "replicas": list(report.replicas),
        "seconds": report.seconds,
    }
