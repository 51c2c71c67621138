"""Step `promote`: label `stable` moves to a version that passed its gates, on all replicas or on none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tfs_deploy.clock import Deadline
from tfs_deploy.deployment import desired_state, records, validation_results
from tfs_deploy.deployment.apply import lint_change
from tfs_deploy.deployment.comparison import compare_again
from tfs_deploy.deployment.desired_state import PREVIOUS, STABLE, DesiredModel
from tfs_deploy.deployment.drift import require_all_replicas_listed, require_available_everywhere, require_no_drift
from tfs_deploy.deployment.label_move import move_labels, not_loaded, recover
from tfs_deploy.deployment.lease import Lease, hold, model_lease
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.deployment.replica_status import observe_leniently
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.reconcile import reconcile
from tfs_deploy.deployment.steps.reject import reject, reject_on_failure
from tfs_deploy.deployment.unload import drop_placeholder
from tfs_deploy.errors import Contention, InvalidInput, Unreachable
from tfs_deploy.names import PLACEHOLDER, check_model_name, check_version, plural
from tfs_deploy.validation.report import ValidationReport
from tfs_deploy.validation.runner import require_pass, worst_metrics


def promote(
    session: GroupSession,
    model: str,
    version: int,
    *,
    reason: str = "",
    idempotency_key: str = "",
    quorum: int | None = None,
) -> DeploymentRecord:
    """Move `stable` to `version` and `previous` to the version that was stable, and record it.

    Gates that compare run again where another version went live since the validation; a version that is worse is
    rejected (ValidationFailed). Promoting the version that is stable already changes nothing, except that replicas
    that drifted (one that was restarted, or reconfigured by hand) are brought back. An `idempotency_key` that is in the
    record already is refused when `stable` was moved again since: a late retry must not undo that.

    With `quorum` so many replicas are enough: the others do not answer now, are named in the record, and are brought
    over by `reconcile`. Raises InvalidInput for a quorum that the group cannot have; Refused without a passing
    validation of these bytes on every replica, or for a replica that was not named; Inconclusive, Drift, Contention,
    Unreachable; after an error every replica that had moved is put back.
    """
    check_model_name(model)
    check_version(version)
    session, away = _answering(session, model, quorum)
    if _is_adopted(session, model, version):
        return _repair(session, model, version)
    fingerprint = session.store.manifest(model, version).fingerprint
    deadline = Deadline.after(session.timeouts.lease, session.clock)
    while not deadline.passed():
        report = _compared_with_live(session, model, version, fingerprint)
        with hold(model_lease(session, model, f"promotion of version {version}")) as lease:
            recover(session, lease, model)
            live = _live(session, model)
            if live != version and not validation_results.is_outdated(report, live):
                record = _record(session, report, live, reason=reason, idempotency_key=idempotency_key, away=away)
                return _move(session, lease, report, record)
        if live == version:
            return _repair(session, model, version)
    raise Contention(
        f"Other versions of model {model!r} went live all the time, so version {version} could not be compared.",
        "Run the same step again.",
    )


def _compared_with_live(session: GroupSession, model: str, version: int, fingerprint: str) -> ValidationReport:
    """Return the passing report, after its gates have compared the version with what is live now."""
    live = _live(session, model)
    if live == version:
        return validation_results.require(session, model, version, fingerprint=fingerprint)
    replicas = session.group.replicas
    report = validation_results.require(session, model, version, fingerprint=fingerprint, replicas=replicas)
    if not validation_results.is_outdated(report, live):
        return report
    with reject_on_failure(session, model, version, reject):
        return require_pass(compare_again(session, model, version, report, live))


def _answering(session: GroupSession, model: str, quorum: int | None) -> tuple[GroupSession, tuple[str, ...]]:
    """Return the session with the replicas that have to be moved, and the targets of the others."""
    if quorum is None:
        return session, ()
    replicas = session.group.replicas
    if not 1 <= quorum <= len(replicas):
        raise InvalidInput(
            f"A quorum of {quorum} is not possible: group {session.group.name!r} has "
            f"{plural(len(replicas), 'replica')}.",
            f"Give a number from 1 to {len(replicas)}.",
        )
    silent = {each.target: each.error for each in observe_leniently(session, model, ()).replicas if each.error}
    if len(replicas) - len(silent) < quorum:
        target, error = next(iter(silent.items()))
        raise Unreachable(
            f"{plural(len(replicas) - len(silent), 'replica')} of group {session.group.name!r} answer, and the quorum "
            f"is {quorum}; {target}: {error}",
            "Start the others, or give a smaller quorum.",
        )
    clients = {target: client for target, client in session.clients.items() if target not in silent}
    group = replace(session.group, replicas=tuple(clients))
    return replace(session, group=group, clients=clients), tuple(sorted(silent))


def _move(session: GroupSession, lease: Lease, report: ValidationReport, record: DeploymentRecord) -> DeploymentRecord:
    """Check everything that a move needs, and carry it out; nothing else moves labels of the model meanwhile."""
    model, version = report.model, report.version
    records.find_by_key(session, model, record.idempotency_key)
    require_all_replicas_listed(session, model, version, validated_on=report.replicas)
    state, status = require_no_drift(session)
    desired = state.models.get(model)
    if desired is None or version not in desired.versions:
        raise not_loaded(session, model, version)
    require_available_everywhere(status[model], version)
    if PLACEHOLDER in desired.versions:
        # Its load ended without it being dropped.
        drop_placeholder(session, model)
    target = replace(desired, labels=_labels_after(desired, version))
    lint_change(session, state, state.with_model(model, target), status)
    return move_labels(session, lease, record, lambda current: _labels_after(current, version))


def _record(
    session: GroupSession, report: ValidationReport, live: int, *, reason: str, **more: Any
) -> DeploymentRecord:
    return records.new_record(
        session,
        report.model,
        Action.PROMOTED,
        report.version,
        previous=live or None,
        fingerprint=report.fingerprint,
        reason=reason or report.reason(),
        measured=worst_metrics(report),
        **more,
    )


def _repair(session: GroupSession, model: str, version: int) -> DeploymentRecord:
    """Bring replicas back to the stable version, and return the record of its move."""
    reconcile(session)
    latest = records.latest_move(session.store.documents, session.group.name, model)
    return latest or records.new_record(session, model, Action.PROMOTED, version)


def _live(session: GroupSession, model: str) -> int:
    return desired_state.read(session.store.documents, session.group).labels(model).get(STABLE, 0)


def _labels_after(desired: DesiredModel, version: int) -> dict[str, int]:
    old = desired.labels.get(STABLE)
    return {**desired.labels, STABLE: version} if old is None else {**desired.labels, STABLE: version, PREVIOUS: old}


def _is_adopted(session: GroupSession, model: str, version: int) -> bool:
    """Tell whether `version` is stable because the start-up file said so before the first deploy.

    Such a version has no validation, and the store may not have it; replicas that lost it are brought back to it.
    """
    documents, group = session.store.documents, session.group
    return _live(session, model) == version and records.latest_move(documents, group.name, model) is None
