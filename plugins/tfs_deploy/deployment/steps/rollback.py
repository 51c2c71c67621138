"""Step `rollback`: `stable` goes back to a version that was live before; no load, no bytes, one RPC per replica."""

from __future__ import annotations

from tfs_deploy.deployment import desired_state, records, validation_results
from tfs_deploy.deployment.desired_state import PREVIOUS, STABLE, DesiredState
from tfs_deploy.deployment.label_move import read_and_recover
from tfs_deploy.deployment.lease import Lease, hold
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.promote import move_labels, read_for_move
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
        state = _without_another_move(session, lease, model, to)
        # With a move still open the record is not the end of it: the replicas are brought to it below.
        done = records.find_by_key(session, model, idempotency_key) if state.move is None else None
        if done is not None:
            return done
        version = _target(session, state, model, to)
        # Read first: a version that does not exist is the caller's mistake, and not "not loaded".
        fingerprint = session.store.manifest(model, version).fingerprint
        held = read_for_move(session, lease, model, version)
        validation_results.require(session.store.documents, session.group.name, model, version, fingerprint=fingerprint)
        told = reason or f"back from version {held.state.labels(model)[STABLE]}"
        draft = records.new_record(
            session,
            model,
            Action.ROLLED_BACK,
            version,
            fingerprint=fingerprint,
            reason=told,
            idempotency_key=idempotency_key,
        )
        return move_labels(session, lease, held, draft)


def _without_another_move(session: GroupSession, lease: Lease, model: str, to: int | None) -> DesiredState:
    """Return the desired state with a move that was interrupted ended first, unless it is this very rollback.

    Labels as they were before a promotion that is through and recorded would lead one version too far back.
    """
    state = desired_state.read(session.store.documents, session.group).state
    move = state.move
    if move is None:
        return state
    same = (move.model, move.action) == (model, Action.ROLLED_BACK.value) and to in (None, move.labels.get(STABLE))
    return state if same else read_and_recover(session, lease).state


def _target(session: GroupSession, state: DesiredState, model: str, to: int | None) -> int:
    """Return the version to go to; a move in `state` is this rollback, half done."""
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
