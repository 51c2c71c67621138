"""Finish with a move of labels that another deployer began and did not end, before anything else is done."""

from __future__ import annotations

from dataclasses import replace

from tfs_deploy.deployment import desired_state, records
from tfs_deploy.deployment.apply import reconcile_replica
from tfs_deploy.deployment.desired_state import STABLE, DesiredState, LabelMove, StoredState
from tfs_deploy.deployment.lease import Lease
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.startup_config import write_startup_config
from tfs_deploy.errors import StoreError, TFSDeployError


def read_and_recover(session: GroupSession, lease: Lease) -> StoredState:
    """Return the group's desired state, with an interrupted move put back on every replica first.

    A move that was recorded already had reached every replica: that one is finished instead.
    """
    held = desired_state.read(session.store.documents, session.group)
    move = held.state.move
    if move is None:
        return held
    if recorded(session, move) is not None:
        return _finish(session, lease, held, move)
    return revert_move(session, lease, held, reason="the deployer that began it stopped half way")


def recorded(session: GroupSession, move: LabelMove) -> DeploymentRecord | None:
    """Return the record of a move that had reached every replica before its deployer was interrupted, or None."""
    latest = records.latest_move(session.store.documents, session.group.name, move.model)
    # The version too: generations begin anew where a desired state was lost.
    ours = latest is not None and (latest.generation, latest.version) == (move.generation, move.labels.get(STABLE))
    return latest if ours else None


def _finish(session: GroupSession, lease: Lease, held: StoredState, move: LabelMove) -> StoredState:
    moved = replace(held.state.models[move.model], labels=move.labels)
    wanted = replace(held.state.with_model(move.model, moved), move=None)
    session.call_all(lambda client: reconcile_replica(session, client, wanted, lease))
    return settle(session, held, wanted)


def settle(session: GroupSession, held: StoredState, wanted: DesiredState) -> StoredState:
    """Write the start-up file, and then replace `held` by `wanted`, which has no move any more.

    In this order, what is interrupted here is done again, and no replica restarts into the past. A file that cannot be
    written (StoreError) does not keep the move open: going back must not wait for a disk.
    """
    try:
        write_startup_config(session, wanted)
    except StoreError:
        desired_state.write(session.store.documents, session.group, held, wanted)
        raise
    return desired_state.write(session.store.documents, session.group, held, wanted)


def revert_move(session: GroupSession, lease: Lease, held: StoredState, *, reason: str) -> StoredState:
    """Give every replica the labels from before the move, drop the move and record that; raise what fails.

    When a replica cannot be reached the move stays in the state document, so that the next step tries again.
    """
    move = held.state.move
    if move is None:
        return held
    calm = replace(held.state, move=None)
    session.call_all(lambda client: reconcile_replica(session, client, calm, lease))
    settled = desired_state.write(session.store.documents, session.group, held, calm)
    records.append(
        session.store.documents,
        records.new_record(
            session,
            move.model,
            Action.PUT_BACK,
            calm.labels(move.model).get(STABLE, 0),
            previous=move.labels.get(STABLE),
            reason=f"{move.action} by {move.actor}: {reason}",
        ),
    )
    return settled


def try_to_revert(session: GroupSession, lease: Lease, held: StoredState, cause: TFSDeployError) -> str:
    """Put labels back after `cause` and return one sentence about how that went."""
    try:
        revert_move(session, lease, held, reason=cause.cause)
    except TFSDeployError as error:
        return f"Putting the labels back did not succeed everywhere either ({error.cause}); the next step tries again."
    return "Every replica has its labels from before."
