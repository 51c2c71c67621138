"""Step `rollback`: `stable` goes back to a version that was live before; nothing is loaded and no bytes are copied."""

from __future__ import annotations

import logging

from tfs_deploy.deployment import desired_state, records, validation_results
from tfs_deploy.deployment.desired_state import PREVIOUS, STABLE, DesiredModel, LabelMove
from tfs_deploy.deployment.label_move import move_labels, not_loaded, recover
from tfs_deploy.deployment.lease import Lease, hold, model_lease
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.deployment.replica_status import observe_leniently
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import NotFound, Refused, TFSDeployError, Unreachable
from tfs_deploy.names import check_model_name, check_version

logger = logging.getLogger(__name__)


def rollback(
    session: GroupSession, model: str, *, to: int | None = None, reason: str = "", idempotency_key: str = ""
) -> DeploymentRecord:
    """Swap `stable` and `previous`, or move `stable` to version `to`, and record it.

    Going back must never wait: the replicas that answer and serve the target are moved, the others are named in the
    record (`away`) and brought over by `reconcile`. The start-up file is written first, so that they restart into it.
    The target must have passed its gates on these bytes once; replicas that joined since then need no new validation.
    An `idempotency_key` that is in the record already is answered with its record (a retry after a crash must not go
    forward again), and refused when `stable` was moved again since. Raises NotFound, Refused, Contention, and
    Unreachable where no replica can be moved.
    """
    check_model_name(model)
    # A mistake of the caller changes nothing, not even a lease.
    _desired_model(session, model)
    with hold(model_lease(session, model, "rollback")) as lease:
        interrupted = _open_move(session, model)
        finished = _recover(session, lease, model)
        # An open rollback is this one, interrupted: it is finished, and not done a second time.
        if finished is not None and interrupted is not None and _is_this_rollback(interrupted, to, idempotency_key):
            return finished
        done = records.find_by_key(session, model, idempotency_key)
        if done is not None:
            return done
        desired = _desired_model(session, model)
        version = _target(session, desired, model, to)
        # Read first: a version that does not exist is the caller's mistake, and not "not loaded".
        fingerprint = session.store.manifest(model, version).fingerprint
        if version not in desired.versions:
            raise not_loaded(session, model, version)
        validation_results.require(session, model, version, fingerprint=fingerprint)
        live = desired.current_labels.get(STABLE)
        record = records.new_record(
            session,
            model,
            Action.ROLLED_BACK,
            version,
            previous=live,
            fingerprint=fingerprint,
            reason=reason or f"back from version {live}",
            idempotency_key=idempotency_key,
        )
        return move_labels(
            session,
            lease,
            record,
            lambda current: _labels_after(current, version),
            skip=_not_ready(session, model, version),
            in_place_of_open_move=True,
        )


def _recover(session: GroupSession, lease: Lease, model: str) -> DeploymentRecord | None:
    """End an interrupted move of the model; one that cannot be ended, because a replica is away, is replaced."""
    try:
        return recover(session, lease, model)
    except TFSDeployError as error:
        logger.warning("The interrupted move of model %s is undone by this rollback: %s", model, error.cause)
        return None


def _is_this_rollback(move: LabelMove, to: int | None, idempotency_key: str) -> bool:
    record = move.record
    same_target = to in (None, record.version)
    return record.action is Action.ROLLED_BACK and same_target and record.idempotency_key == idempotency_key


def _open_move(session: GroupSession, model: str) -> LabelMove | None:
    desired = desired_state.read(session.store.documents, session.group).models.get(model)
    return None if desired is None else desired.move


def _desired_model(session: GroupSession, model: str) -> DesiredModel:
    desired = desired_state.read(session.store.documents, session.group).models.get(model)
    if desired is None or STABLE not in desired.labels:
        raise NotFound(
            f"Model {model!r} has no stable version in group {session.group.name!r}.",
            "There is nothing to go back from: deploy a version first.",
        )
    return desired


def _target(session: GroupSession, desired: DesiredModel, model: str, to: int | None) -> int:
    """Return the version to go to: where a move is still open, that is the version from before it."""
    labels = desired.labels
    usual = labels.get(PREVIOUS) if desired.move is None else labels[STABLE]
    version = usual if to is None else check_version(to)
    if version is None:
        raise NotFound(
            f"Model {model!r} has no previous version in group {session.group.name!r}.",
            f"Name one that is loaded: tfs-deploy rollback {model} --to VERSION.",
        )
    if version == labels[STABLE] and desired.move is None:
        raise Refused(f"Version {version} of model {model!r} is stable already.", "Name another version.")
    return version


def _labels_after(desired: DesiredModel, version: int) -> dict[str, int]:
    """Return the labels with `stable` on `version`; `previous` is what was live, or about to be."""
    live = desired.current_labels[STABLE]
    return {**desired.labels, STABLE: version, PREVIOUS: live} if live != version else dict(desired.labels)


def _not_ready(session: GroupSession, model: str, version: int) -> frozenset[str]:
    """Return the replicas that do not answer or do not serve `version`; raise what is wrong if none does."""
    status = observe_leniently(session, model, ())
    silent = {replica.target: replica.error for replica in status.replicas if replica.error}
    without = {each.target for each in status.replicas if not each.error and version not in each.available()}
    if len(silent) + len(without) < len(status.replicas):
        return frozenset({*silent, *without})
    if without:
        raise Refused(
            f"Version {version} of model {model!r} is not AVAILABLE on replica {min(without)}.",
            f"Run: tfs-deploy load {model} {version}, then roll back.",
        )
    target, error = next(iter(silent.items()))
    raise Unreachable(f"No replica of group {session.group.name!r} answers; {target}: {error}", "Start one.")
