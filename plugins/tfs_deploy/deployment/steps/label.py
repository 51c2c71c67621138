"""Step `label`: a label besides `stable` and `previous`, for example `canary`, moves to a version or is removed."""

from __future__ import annotations

from dataclasses import replace

from tfs_deploy.deployment import desired_state, records, validation_results
from tfs_deploy.deployment.apply import lint_change
from tfs_deploy.deployment.desired_state import PREVIOUS, STABLE, DesiredModel
from tfs_deploy.deployment.drift import require_all_replicas_listed, require_available_everywhere, require_no_drift
from tfs_deploy.deployment.label_move import move_labels, not_loaded, recover
from tfs_deploy.deployment.lease import hold, model_lease
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import InvalidInput
from tfs_deploy.names import check_label, check_model_name, check_version, served_number
from tfs_deploy.validation.report import ValidationReport

# What moves a reserved label instead.
_RESERVED = {STABLE: "promote", PREVIOUS: "rollback"}


def set_label(session: GroupSession, model: str, label: str, version: int, *, reason: str = "") -> DeploymentRecord:
    """Move `label` to `version` on all replicas or on none, and return the record.

    The version must be loaded on every replica and have passed its gates there on these bytes. Where the label names
    the version already, nothing is changed or written, and the record that is returned has no number. Raises
    InvalidInput for a reserved label or one that is named like a version; NotFound, Refused, Drift, Contention,
    Unreachable; after an error every replica that had moved is put back.
    """
    check_custom_label(label, model)
    check_model_name(model)
    check_version(version)
    # Read first: a version that does not exist is the caller's mistake, and not "not loaded".
    fingerprint = session.store.manifest(model, version).fingerprint
    with hold(model_lease(session, model, f"move of label {label} to version {version}")) as lease:
        recover(session, lease, model)
        desired = _desired_model(session, model)
        if desired is None or version not in desired.versions:
            raise not_loaded(session, model, version)
        before = desired.labels.get(label)
        report = validation_results.require(
            session, model, version, fingerprint=fingerprint, replicas=session.group.replicas
        )
        record = replace(
            records.new_record(session, model, Action.LABELLED, version, label=label),
            previous=before,
            fingerprint=fingerprint,
            reason=reason or report.reason(),
        )
        _require_ready(session, report, {**desired.labels, label: version})
        if before == version:
            return record
        return move_labels(session, lease, record, lambda current: {**current.labels, label: version})


def remove_label(
    session: GroupSession, model: str, label: str, *, version: int | None = None, reason: str = ""
) -> DeploymentRecord | None:
    """Remove `label` from all replicas or from none; return the record, or None where no such label is set.

    With `version` only a label that names that version is removed. The record has `version` 0, and `previous` is the
    version that the label named, which stays loaded. Raises InvalidInput for a reserved label or one that is named like
    a version; Drift, Contention, Unreachable.
    """
    check_custom_label(label, model)
    check_model_name(model)
    with hold(model_lease(session, model, f"removal of label {label}")) as lease:
        recover(session, lease, model)
        desired = _desired_model(session, model)
        named = None if desired is None else desired.labels.get(label)
        if named is None or version not in (None, named):
            return None
        require_no_drift(session)
        record = replace(
            records.new_record(session, model, Action.LABELLED, 0, label=label, previous=named),
            reason=reason or f"label {label} removed from version {named}",
        )
        return move_labels(session, lease, record, lambda current: _without(current, label))


def check_custom_label(label: str, model: str) -> str:
    """Return `label` if it may be set and removed freely; raise InvalidInput otherwise."""
    check_label(label)
    if label in _RESERVED:
        raise InvalidInput(
            f"The label {label!r} is reserved.",
            f"It is moved by: tfs-deploy {_RESERVED[label]} {model}. Choose another name, for example canary.",
        )
    if served_number(label) is not None:
        raise InvalidInput(f"The label {label!r} is named like a version.", "Choose a name with a letter.")
    return label


def _desired_model(session: GroupSession, model: str) -> DesiredModel | None:
    return desired_state.read(session.store.documents, session.group).models.get(model)


def _require_ready(session: GroupSession, report: ValidationReport, labels: dict[str, int]) -> None:
    """Raise what stands in the way of a move to `labels`: drift, a replica without the version, the linter."""
    model, version = report.model, report.version
    require_all_replicas_listed(session, model, version, validated_on=report.replicas)
    state, status = require_no_drift(session)
    require_available_everywhere(status[model], version)
    target = state.with_model(model, replace(state.models[model], labels=labels))
    lint_change(session, state, target, status)


def _without(desired: DesiredModel, label: str) -> dict[str, int]:
    return {name: version for name, version in desired.labels.items() if name != label}
