"""The move of labels of one model: one transaction over the desired state, every replica and the record.

::

    no move ──1──► open ──2──► moved ──3──► recorded ──4──► no move, new labels
                    │            │             │                   ▲
                    │            └─────────────┴── deployer died: the next step of the model goes on from 2 or 4
                    │ a replica cannot be moved
                    ▼
                 reverting ──5──► no move, old labels

    1  write `move` into the desired state: every config that is sent from now on has its labels, the start-up file too
    2  send the desired state and check the labels on every replica
    3  append the deployment record
    4  write the desired state with the new labels and without `move`
    5  send the old labels and check them, append a `put_back` record, drop `move`

The lease of the model is held from 1 to 4, for some RPCs. A deployer that dies leaves the move open, which is in nobody
else's way: the next step of the same model carries it out, or reverts it where a replica cannot be moved. A rollback
needs only the replicas that answer; the others are named in the record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from tfs_deploy.deployment import desired_state, records
from tfs_deploy.deployment.apply import send
from tfs_deploy.deployment.desired_state import STABLE, DesiredModel, DesiredState, LabelMove, SentState
from tfs_deploy.deployment.drift import replicas_left_out, require_label_answers
from tfs_deploy.deployment.lease import Lease
from tfs_deploy.deployment.records import MOVES_STABLE, Action, DeploymentRecord
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import Contention, Refused, StoreError, TFSDeployError, Unreachable

logger = logging.getLogger(__name__)

# A move that was not closed is followed by few records: the next step of the model ends it.
_NEWEST_RECORDS = 20

# The labels of a model after a move, from those before.
LabelChange = Callable[[DesiredModel], dict[str, int]]


def move_labels(
    session: GroupSession,
    lease: Lease,
    record: DeploymentRecord,
    labels_after: LabelChange,
    *,
    skip: Collection[str] = (),
    in_place_of_open_move: bool = False,
) -> DeploymentRecord:
    """Carry out a move of labels of the model of `record`, and return the record as it was written.

    Replicas in `skip` are known to be away; those that the record names as away already are not of the session.
    Raises Refused where the version is not loaded or already on its way out, Contention where another move is open, and
    what stopped the move; every replica that had moved is put back then.
    """
    version = record.version

    def begin(state: DesiredState, model: DesiredModel | None) -> DesiredModel:
        # Version 0: a label is removed.
        if model is None or (version and version not in model.versions):
            raise not_loaded(session, record.model, version)
        if model.move is not None and not in_place_of_open_move:
            raise _taken_over(record.model)
        numbered = replace(record, generation=state.generation + 1)
        return replace(model, move=LabelMove(labels_after(model), numbered))

    state = desired_state.change(session, record.model, begin)
    return _carry_out(session, lease, state, record.model, skip=skip)


def recover(session: GroupSession, lease: Lease, model: str) -> DeploymentRecord | None:
    """End a move of `model` that was interrupted, and return its record; None if there was none or it was reverted.

    It is carried out, because it was written down only once everything that it needs had been checked.
    """
    state = desired_state.read(session.store.documents, session.group)
    move = state.models[model].move if model in state.models else None
    if move is None:
        return None
    logger.warning("The %s of model %s by %s was interrupted; going on with it", *_names(move), move.record.actor)
    if move.reverting:
        _revert(session, lease, model, move, reason="its deployer stopped half way")
        return None
    written = _record_of(session, move)
    if written is not None:
        _close(session, model, move, labels=move.labels)
        return written
    return _carry_out(session, lease, state, model, recovered=True)


def not_loaded(session: GroupSession, model: str, version: int) -> Refused:
    """Return the error for a version that the group has not loaded."""
    return Refused(
        f"Version {version} of model {model!r} is not loaded by group {session.group.name!r}.",
        f"Run: tfs-deploy load {model} {version}.",
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The replicas that answer the labels of a move, the errors of the others, and what was sent."""

    moved: tuple[str, ...]
    errors: dict[str, TFSDeployError]
    sent: SentState


def _carry_out(
    session: GroupSession,
    lease: Lease,
    state: DesiredState,
    model: str,
    *,
    skip: Collection[str] = (),
    recovered: bool = False,
) -> DeploymentRecord:
    """Move the replicas as the open move of `model` says, record it and close it; revert it after an error."""
    move = state.models[model].move
    assert move is not None
    started = session.clock.monotonic()
    outcome = _send_labels(session, state, move, move.labels, skip=skip, again=recovered)
    if not _is_enough(session, move, outcome):
        error = next(iter(outcome.errors.values()))
        # The same error object, so that its class still says whether to try again.
        error.remedy = f"{_try_revert(session, lease, model, move, error)} {error.remedy}"
        raise error
    record = replace(
        move.record,
        # A recovered move was in force since about its begin: every config that was sent had its labels.
        at=move.record.at if recovered else session.clock.now().isoformat(),
        replicas=outcome.moved,
        away=tuple(sorted({*move.record.away, *outcome.errors})),
        seconds=round(session.clock.monotonic() - started, 3),
    )
    for target, error in sorted(outcome.errors.items()):
        logger.warning("Replica %s was not moved: %s Run tfs-deploy reconcile when it is back.", target, error.cause)
    if record.action is Action.ROLLED_BACK:
        left_out = replicas_left_out(session, model, record.version)
        for target in left_out:
            logger.warning("Replica %s was not named, and still answers `stable` from another version.", target)
        record = replace(record, away=tuple(sorted({*record.away, *left_out})))
    # A deployer that took the lease meanwhile has ended this move, and then it must not be recorded again.
    lease.renew()
    written = records.append(session.store.documents, record)
    _close(session, model, move, labels=move.labels)
    if outcome.sent.startup_error is not None:
        raise StoreError(outcome.sent.startup_error.cause, outcome.sent.startup_error.remedy)
    return written


def _send_labels(
    session: GroupSession,
    state: DesiredState,
    move: LabelMove,
    labels: dict[str, int],
    *,
    skip: Collection[str] = (),
    again: bool = False,
) -> _Outcome:
    """Send `state`, or a newer one, and ask every replica for `labels`."""
    purpose, model = "{} of {}".format(*_names(move)), move.record.model
    sent = send(session, state.generation, purpose=purpose, again=again, skip=skip)
    errors = {target: error.to_error() for target, error in sent.errors.items()}
    errors |= {target: _away(target) for target in session.clients if target in skip}
    reached = {target: client for target, client in session.clients.items() if target not in errors}
    checks = replace(session, clients=reached).gather_results(
        lambda client: require_label_answers(session, client, model, labels)
    )
    errors |= {target: result for target, result in checks.items() if isinstance(result, TFSDeployError)}
    return _Outcome(tuple(target for target in session.clients if target not in errors), errors, sent)


def _is_enough(session: GroupSession, move: LabelMove, outcome: _Outcome) -> bool:
    if move.record.action is Action.ROLLED_BACK:
        return bool(outcome.moved)
    return len(outcome.moved) == len(session.clients)


def _try_revert(session: GroupSession, lease: Lease, model: str, move: LabelMove, error: TFSDeployError) -> str:
    """Revert the move because of `error`; return one sentence about the outcome."""
    try:
        _revert(session, lease, model, move, reason=error.cause)
    except TFSDeployError as revert_error:
        return (
            f"Putting the labels back did not succeed everywhere either ({revert_error.cause}); "
            "the next step tries again."
        )
    return "Every replica has its labels from before."


def _revert(session: GroupSession, lease: Lease, model: str, move: LabelMove, *, reason: str) -> None:
    """Give every replica its labels from before `move`, record that and drop the move; raise what fails.

    If a replica cannot be reached, the move stays open and the next step tries again.
    """
    lease.check()
    state = _change_move(session, model, move, lambda desired: replace(desired, move=replace(move, reverting=True)))
    before = state.models[model].labels
    outcome = _send_labels(session, state, move, before, again=True)
    for error in outcome.errors.values():
        raise error
    lease.renew()
    if move.record.action in MOVES_STABLE:
        _record_revert(session, move, stable=before.get(STABLE, 0), reason=reason)
    _close(session, model, move, labels=before)


def _record_revert(session: GroupSession, move: LabelMove, *, stable: int, reason: str) -> None:
    moved = move.record
    record = records.new_record(session, moved.model, Action.PUT_BACK, stable, previous=moved.version)
    reason = f"{moved.action.value} by {moved.actor}: {reason}"
    record = replace(record, reason=reason, generation=moved.generation)
    latest = records.latest_move(session.store.documents, moved.group, moved.model)
    if latest is None or (latest.action, latest.generation) != (record.action, record.generation):
        records.append(session.store.documents, record)


def _close(session: GroupSession, model: str, move: LabelMove, *, labels: dict[str, int]) -> None:
    _change_move(session, model, move, lambda desired: replace(desired, labels=labels, move=None))


def _change_move(
    session: GroupSession, model: str, move: LabelMove, edit: Callable[[DesiredModel], DesiredModel]
) -> DesiredState:
    """Change the model whose open move is `move`; raise Contention if somebody else ended it."""

    def checked(state: DesiredState, desired: DesiredModel | None) -> DesiredModel:
        if desired is None or desired.move is None or desired.move.record.generation != move.record.generation:
            raise _taken_over(model)
        return edit(desired)

    return desired_state.change(session, model, checked)


def _record_of(session: GroupSession, move: LabelMove) -> DeploymentRecord | None:
    """Return the record of `move`, which was written once enough replicas were moved, or None."""
    documents, record = session.store.documents, move.record
    if record.action in MOVES_STABLE:
        latest = records.latest_move(documents, record.group, record.model)
        candidates = [latest] if latest is not None else []
    else:
        candidates = list(records.history(documents, record.group, record.model, limit=_NEWEST_RECORDS))
    wanted = (record.generation, record.version, record.action)
    return next((each for each in candidates if (each.generation, each.version, each.action) == wanted), None)


def _names(move: LabelMove) -> tuple[str, str]:
    noun = {Action.PROMOTED: "promotion", Action.ROLLED_BACK: "rollback"}.get(move.record.action, "label move")
    return noun, move.record.model


def _away(target: str) -> Unreachable:
    return Unreachable(
        f"Replica {target} does not answer, or does not serve the version.", "Run tfs-deploy reconcile when it does."
    )


def _taken_over(model: str) -> Contention:
    return Contention(
        f"Another deployer has taken over the labels of model {model!r} meanwhile.",
        "Look at `tfs-deploy history`, then run the step again.",
    )
