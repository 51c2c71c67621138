"""The gates that compare with the live version, run again when another version has become live since."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tfs_deploy.deployment import gate_files, validation_results
from tfs_deploy.deployment.replica_status import observe_leniently
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.validate import require_available, with_silent_replicas
from tfs_deploy.errors import Contention
from tfs_deploy.validation.gate import LiveVersion
from tfs_deploy.validation.report import KeptGates, ValidationReport, Verdict, overall
from tfs_deploy.validation.runner import PreparedGates, prepare_gates, validate_replicas

# Each further round means that another run validated the same version with other gates meanwhile.
_ROUNDS = 5


def compare_again(
    session: GroupSession, model: str, version: int, report: ValidationReport, live: int
) -> ValidationReport:
    """Compare `version` with `live` (0: nothing is live) on every replica, and return `report` with the new outcome.

    `report` is the passing one that is stored. Only gates that compare run; the checks of the others stay. A decided
    outcome is saved; an inconclusive one (a replica does not answer) is returned and changes nothing. Where `report`
    compared with `live` already, nothing runs.

    Raises NotFound (not in the store, or not AVAILABLE on a replica that answers), Refused (the gates were not kept, a
    replica was not validated, or the version was loaded again meanwhile), StoreError (a gate file is gone or damaged),
    InvalidInput (gates that this release does not know) and Contention.
    """
    for _ in range(_ROUNDS):
        if report.verdict is not Verdict.PASS or version == live or not validation_results.is_outdated(report, live):
            return report
        if report.gates is None:
            raise validation_results.outdated(report, live)
        compared = _compare(session, report, report.gates, live)
        if compared.verdict is Verdict.INCONCLUSIVE:
            return compared
        stored = validation_results.replace(session, report, compared)
        if stored == compared:
            return compared
        report = stored
    raise Contention(
        f"Version {version} of model {model!r} is validated by another run again and again.",
        "Promote it when that run has ended.",
    )


def _compare(session: GroupSession, report: ValidationReport, kept: KeptGates, live: int) -> ValidationReport:
    model, version = report.model, report.version
    validation_results.require_covered(report, session.clients)
    status = observe_leniently(session, model, ())
    require_available(status, version)
    with TemporaryDirectory(prefix="tfs-deploy-gates-") as folder:
        gates = _comparing_gates(session, report, kept, Path(folder))
        on_replicas = {target: LiveVersion(client, live) for target, client in session.clients.items()} if live else {}
        fresh = validate_replicas(session.clients, model, version, gates=gates, live=on_replicas, clock=session.clock)
    return _merge(report, with_silent_replicas(fresh, status), gates)


def _comparing_gates(session: GroupSession, report: ValidationReport, kept: KeptGates, folder: Path) -> PreparedGates:
    """Return the gates that compare, prepared as in the validation: with the files of all gates."""
    model, version = report.model, report.version
    gates = gate_files.restore(session.store.documents, kept, folder)
    manifest = session.store.manifest(model, version)
    return prepare_gates(manifest, gates, lambda path: session.store.read(model, version, path)).comparing()


def _merge(report: ValidationReport, fresh: ValidationReport, gates: PreparedGates) -> ValidationReport:
    """Return `report` about the replicas of `fresh`, with the checks of `fresh` in place of those of the same gates."""
    repeated = {prepared.gate.name for prepared in gates.gates}
    kept = (check for check in report.checks if check.replica in fresh.replicas and check.gate not in repeated)
    checks = (*kept, *fresh.checks)
    return replace(
        report,
        replicas=fresh.replicas,
        checks=checks,
        verdict=overall(checks),
        at=fresh.at,
        seconds=round(report.seconds + fresh.seconds, 3),
        compared_with=fresh.compared_with,
    )
