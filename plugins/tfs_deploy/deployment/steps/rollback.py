"""Step `rollback`: `stable` goes back to a version that was live before; nothing is loaded and no bytes are copied."""

from __future__ import annotations

from tfs_deploy.deployment import desired_state, records, validation_results
from tfs_deploy.deployment.desired_state import PREVIOUS, STABLE, DesiredState
from tfs_deploy.deployment.label_move import move_labels, read_and_recover, read_for_move
from tfs_deploy.deployment.lease import Lease, hold
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import NotFound, Refused
from tfs_deploy.names import check_model_name, check_version


def rollback(
    session: GroupSession, model: str, *, to: int | None = None, reason: str = "", idempotency_key: str = ""
) -> DeploymentRecord:
    """Swap `stable` and `previous`, or move `stable` to version `to`, and record it.

    The target must have passed its gates on these bytes once and be AVAILABLE on every replica now; replicas that
    joined since then need no new validation, because going back must never wait. An `idempotency_key` that is in
    the record already is answered with its record (a retry after a crash must not go forward again), and refused when
    `stable` was moved again since. Raises NotFound, Refused, Drift, Contention, Unreachable.
    """
    check_model_name(model)
    with hold(session, f"rollback of {model}") as lease:
        state = _read_without_another_move(session, lease, model, to)
        # An open move is this rollback, interrupted: it may be recorded, and is still to be finished.
        done = records.find_by_key(session, model, idempotency_key) if state.move is None else None
        if done is not None:
            return done
        version = _target(session, state, model, to)
        # Read first: a version that does not exist is the caller's mistake, and not "not loaded".
        fingerprint = session.store.manifest(model, version).fingerprint
        stored = read_for_move(session, lease, model, version)
        validation_results.require(session, model, version, fingerprint=fingerprint)
        reason = reason or f"back from version {stored.state.labels(model)[STABLE]}"
        record = records.new_record(
            session,
            model,
            Action.ROLLED_BACK,
            version,
            fingerprint=fingerprint,
            reason=reason,
            idempotency_key=idempotency_key,
        )
        return move_labels(session, lease, stored, record)


def _read_without_another_move(session: GroupSession, lease: Lease, model: str, to: int | None) -> DesiredState:
    """Return the desired state; recover an interrupted move first, unless it is this very rollback.

    Otherwise the labels from before a promotion that was recorded already would lead one version too far back.
    """
    state = desired_state.read(session.store.documents, session.group).state
    move = state.move
    if move is None:
        return state
    same = (move.model, move.action) == (model, Action.ROLLED_BACK.value) and to in (None, move.labels.get(STABLE))
    return state if same else read_and_recover(session, lease).state


def _target(session: GroupSession, state: DesiredState, model: str, to: int | None) -> int:
    """Return the version to go to; a move in `state` is this rollback, interrupted."""
    if state.move is not None:
        return state.move.labels[STABLE]
    labels = state.labels(model)
    if STABLE not in labels:
        raise NotFound(
            f"Model {model!r} has no stable version in group {session.group.name!r}.",
            "There is nothing to go back from: deploy a version first.",
        )
    version = labels.get(PREVIOUS) if to is None else check_version(to)
    if version is None:
        raise NotFound(
            f"Model {model!r} has no previous version in group {session.group.name!r}.",
            f"Name one that is loaded: tfs-deploy rollback {model} --to VERSION.",
        )
    if version == labels[STABLE]:
        raise Refused(f"Version {version} of model {model!r} is stable already.", "Name another version.")
    return version
