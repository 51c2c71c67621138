"""All gates, on every replica, to one report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tfs_deploy.clock import Clock
from tfs_deploy.errors import Inconclusive, NotServed, Permanent, SetupError, Transient, ValidationFailed
from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.serving.base_client import ServingClient
from tfs_deploy.serving.concurrent_calls import call_each
from tfs_deploy.validation import gates as registry
from tfs_deploy.validation.config import Gates
from tfs_deploy.validation.gate import Candidate, Gate, LiveVersion, ModelFiles, Outcome, ServedVersion, Worse
from tfs_deploy.validation.gates.golden import GoldenGate
from tfs_deploy.validation.report import Check, ValidationReport, Verdict, overall

logger = logging.getLogger(__name__)

# Errors that say nothing about the version: on the way to the replica, of its set-up, of a version that it unloaded.
_UNDECIDED = (Transient, SetupError, NotServed)


@dataclass(frozen=True, slots=True)
class PreparedGate:
    """One gate with its options and what it read."""

    gate: Gate[Any, Any]
    options: Any
    inputs: Any

    def compares_live(self) -> bool:
        """Tell whether the outcome depends on the version that is live."""
        return self.gate.compares_live(self.options)

    def run(self, candidate: Candidate) -> Check:
        """Check one replica; a Permanent error of the version is a fail, any other error is inconclusive."""
        try:
            outcome = self.gate.check(self.options, self.inputs, candidate)
        except _UNDECIDED as error:
            outcome = Outcome(Verdict.INCONCLUSIVE, error.cause)
        except Permanent as error:
            outcome = Outcome(Verdict.FAIL, error.cause)
        except Exception as error:  # a bug of a gate is no fault of the version, and the other checks go on
            logger.exception("Gate %s ended on %s", self.gate.name, candidate.client.target)
            outcome = Outcome(Verdict.INCONCLUSIVE, f"the gate itself ended with {type(error).__name__}: {error}")
        return Check(self.gate.name, candidate.client.target, outcome.verdict, outcome.detail, outcome.measured)


@dataclass(frozen=True, slots=True)
class PreparedGates:
    """The gates that run on one version: read once, used on every replica."""

    fingerprint: str
    gates: tuple[PreparedGate, ...]
    rpc_seconds: float

    def compare_live(self) -> bool:
        """Tell whether the outcome of a gate depends on the version that is live."""
        return any(prepared.compares_live() for prepared in self.gates)

    def comparing(self) -> PreparedGates:
        """Return only the gates whose outcome depends on the version that is live."""
        return replace(self, gates=tuple(prepared for prepared in self.gates if prepared.compares_live()))


def prepare_gates(manifest: Manifest, gates: Gates, read_file: Callable[[str], bytes]) -> PreparedGates:
    """Read what the gates need, and refuse what does not fit the model before any server is asked.

    `read_file` returns a small file of the version by its path. Raises InvalidInput for the gates and the files that
    they name, CorruptModel for the version.
    """
    golden = gates.options.get(GoldenGate.name)
    files = ModelFiles(manifest, read_file, golden_file=golden.file if golden else "")
    prepared = [(gate, options, gate.prepare(options, files)) for gate, options in gates.enabled()]
    runnable = tuple(PreparedGate(gate, options, inputs) for gate, options, inputs in prepared if inputs is not None)
    return PreparedGates(manifest.fingerprint, runnable, gates.rpc_seconds)


def validate_replicas(
    clients: Mapping[str, ServingClient],
    model: str,
    version: int,
    *,
    gates: PreparedGates,
    live: Mapping[str, LiveVersion],
    clock: Clock,
) -> ValidationReport:
    """Run every gate on every replica by explicit version and return the report; `live` is by replica."""
    started = clock.monotonic()

    def validate(target: str) -> list[Check]:
        to_compare = None
        if target in live:
            to_compare = ServedVersion(live[target].client, model, live[target].version, gates.rpc_seconds)
        candidate = Candidate(clients[target], model, version, gates.rpc_seconds, to_compare)
        return [prepared.run(candidate) for prepared in gates.gates]

    checks = tuple(check for on_replica in call_each(clients, validate).values() for check in on_replica)
    compared_with = {live[target].version if target in live else 0 for target in clients if gates.compare_live()}
    return ValidationReport(
        model=model,
        version=version,
        fingerprint=gates.fingerprint,
        replicas=tuple(clients),
        checks=checks,
        verdict=overall(checks),
        at=clock.now().isoformat(),
        seconds=round(clock.monotonic() - started, 3),
        compared_with=tuple(sorted(compared_with)),
    )


def worst_metrics(report: ValidationReport) -> dict[str, float]:
    """Return per metric the worst replica's value, which is the one that a client may meet."""
    directions = {name: worse for gate in registry.GATES for name, worse in gate.metrics.items()}
    metrics: dict[str, float] = {}
    for check in report.checks:
        for name, value in check.measured.items():
            worst = max if directions.get(name) is Worse.HIGHER else min
            metrics[name] = worst(value, metrics.get(name, value))
    return metrics


def require_pass(report: ValidationReport) -> ValidationReport:
    """Return `report` if it passed; raise ValidationFailed or Inconclusive with the reason otherwise."""
    if report.verdict is Verdict.FAIL:
        raise ValidationFailed(
            report.reason(), "The live version was not touched; correct the model and publish it again."
        )
    if report.verdict is Verdict.INCONCLUSIVE:
        raise Inconclusive(
            report.reason(), "Nothing was promoted; make every replica reachable and its gates decidable, then retry."
        )
    return report
