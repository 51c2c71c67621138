"""Step `promote`: label `stable` moves to a version that passed its gates, on all replicas or on none."""

from __future__ import annotations

from tfs_deploy.deployment import desired_state, records, validation_results
from tfs_deploy.deployment.desired_state import STABLE
from tfs_deploy.deployment.label_move import move_labels, read_for_move, require_all_replicas_listed
from tfs_deploy.deployment.lease import hold
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.names import check_model_name, check_version
from tfs_deploy.validation.report import ValidationReport
from tfs_deploy.validation.runner import worst_metrics


def promote(
    session: GroupSession, model: str, version: int, *, reason: str = "", idempotency_key: str = ""
) -> DeploymentRecord:
    """Move `stable` to `version` and `previous` to the version that was stable, and record it.

    Promoting the version that is stable already changes nothing, except that replicas that drifted (one that was
    restarted, or reconfigured by hand) are brought back. An `idempotency_key` that is in the record already is refused
    when `stable` was moved again since: a late retry must not undo that. Raises Refused without a passing validation
    of these bytes on every replica, or for a replica that was not named; Drift, Contention, Unreachable; after an error
    every replica that had moved is put back.
    """
    check_model_name(model)
    check_version(version)
    adopted = _is_adopted(session, model, version)
    fingerprint = "" if adopted else session.store.manifest(model, version).fingerprint
    with hold(session, f"promotion of {model} version {version}") as lease:
        stored = read_for_move(session, lease, model, version)
        live = stored.state.labels(model).get(STABLE, 0)
        # Still: another version may have been promoted before the lease was free.
        if adopted and live == version and stored.state.move is None:
            return move_labels(session, lease, stored, records.new_record(session, model, Action.PROMOTED, version))
        if stored.state.move is None:
            records.find_by_key(session, model, idempotency_key)
        report = _require_validated(session, model, version, fingerprint, live)
        record = records.new_record(
            session,
            model,
            Action.PROMOTED,
            version,
            fingerprint=fingerprint,
            reason=reason or report.reason(),
            measured=worst_metrics(report),
            idempotency_key=idempotency_key,
        )
        return move_labels(session, lease, stored, record)


def _require_validated(
    session: GroupSession, model: str, version: int, fingerprint: str, live: int
) -> ValidationReport:
    """Return the passing report: on every replica and against the live version, unless that is `version` itself."""
    if live == version:
        return validation_results.require(session, model, version, fingerprint=fingerprint)
    report = validation_results.require(
        session, model, version, fingerprint=fingerprint, replicas=session.group.replicas, stable=live
    )
    require_all_replicas_listed(session, report)
    return report


def _is_adopted(session: GroupSession, model: str, version: int) -> bool:
    """Tell whether `version` is stable because the start-up file said so before the first deploy.

    Such a version has no validation, and the store may not have it; replicas that lost it are brought back to it.
    """
    documents, group = session.store.documents, session.group
    is_stable = desired_state.read(documents, group).state.labels(model).get(STABLE) == version
    return is_stable and records.latest_move(documents, group.name, model) is None
