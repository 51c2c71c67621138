"""Step `validate`: every gate on every replica, by explicit version; the report is saved and recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tfs_deploy.deployment import desired_state, gate_files, records, validation_results
from tfs_deploy.deployment.desired_state import STABLE
from tfs_deploy.deployment.records import Action
from tfs_deploy.deployment.replica_status import GroupStatus, ReplicaStatus, observe_leniently
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import NotFound
from tfs_deploy.names import check_model_name, check_version
from tfs_deploy.validation.config import Gates
from tfs_deploy.validation.gate import LiveVersion
from tfs_deploy.validation.report import Check, ValidationReport, Verdict, overall
from tfs_deploy.validation.runner import prepare_gates, validate_replicas, worst_metrics

# Stands for a gate in the report on a replica whose status is unknown.
_STATUS = "status"


def stable_on(replica: ReplicaStatus) -> int | None:
    """Return the version that answers the label `stable` on a replica."""
    return replica.labels.get(STABLE)


def validate(
    session: GroupSession,
    model: str,
    version: int,
    gates: Gates,
    *,
    live_on: Callable[[ReplicaStatus], int | None] = stable_on,
) -> ValidationReport:
    """Run the gates and return the report, whatever its verdict; a replica that does not answer makes it inconclusive.

    The gates are kept with the report, and the files that they name in the store, for `comparison.compare_again`.
    `live_on` returns the version that answers production traffic on a replica: the gates compare with it.
    Raises NotFound (not in the store, or not AVAILABLE on a replica that answers) and InvalidInput (gates or requests
    that do not fit the model) before any gate runs.
    """
    check_model_name(model)
    check_version(version)
    manifest = session.store.manifest(model, version)
    prepared = prepare_gates(manifest, gates, lambda path: session.store.read(model, version, path))
    status = observe_leniently(session, model, (STABLE,))
    require_available(status, version)
    kept = gate_files.keep(session.store.documents, gates)
    report = validate_replicas(
        session.clients,
        model,
        version,
        gates=prepared,
        live=_live(session, status, version, live_on),
        clock=session.clock,
    )
    report = replace(with_silent_replicas(report, status), gates=kept)
    validation_results.save(session, report)
    record = records.new_record(
        session,
        model,
        Action.VALIDATED,
        version,
        previous=desired_state.read(session.store.documents, session.group).labels(model).get(STABLE),
        fingerprint=report.fingerprint,
        reason=f"{report.verdict.value}: {report.reason()}",
        measured=worst_metrics(report),
        seconds=report.seconds,
    )
    records.append(session.store.documents, record)
    return report


def with_silent_replicas(report: ValidationReport, status: GroupStatus) -> ValidationReport:
    """Return `report` with an inconclusive check per replica without a status: it was compared with no live version."""
    decided = {check.replica for check in report.checks if check.verdict is Verdict.INCONCLUSIVE}
    silent = (replica for replica in status.replicas if replica.error and replica.target not in decided)
    added = tuple(Check(_STATUS, replica.target, Verdict.INCONCLUSIVE, replica.error) for replica in silent)
    checks = (*report.checks, *added)
    return replace(report, checks=checks, verdict=overall(checks))


def require_available(status: GroupStatus, version: int) -> None:
    """Raise NotFound for the first replica that answers and has no such version AVAILABLE."""
    for replica in status.replicas:
        if not replica.error and version not in replica.available():
            raise NotFound(
                f"Version {version} of model {status.model!r} is not AVAILABLE on replica {replica.target} "
                f"(available: {', '.join(map(str, sorted(replica.available()))) or 'none'}).",
                f"Run: tfs-deploy load {status.model} {version}.",
            )


def _live(
    session: GroupSession, status: GroupStatus, version: int, live_on: Callable[[ReplicaStatus], int | None]
) -> Mapping[str, LiveVersion]:
    live: dict[str, LiveVersion] = {}
    for replica in status.replicas:
        number = live_on(replica)
        if number is not None and number != version:
            live[replica.target] = LiveVersion(session.clients[replica.target], number)
    return live
