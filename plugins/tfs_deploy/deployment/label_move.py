"""The move of `stable`: one transaction over the desired state, every replica, the record and the start-up file.

::

    no move ──1──► intended ──2──► moved ──3──► recorded ──4,5──► no move, new labels
                      │              │              │                     ▲
                      │ error, or    │ deployer     │ deployer died       │
                      │ deployer     │ died         ▼                     │
                      │ died         │           next step: 2, 4, 5 ──────┘
                      ▼              ▼
                   reverted ──► no move, old labels

    1  write `move` into the desired state              4  write the start-up file
    2  move the labels on every replica                 5  write the desired state with the new labels
    3  append the deployment record                        and without `move`
    reverted: every replica gets its old labels, `move` is dropped, and a `put_back` record is appended

A deployer that dies leaves `move` in the desired state. The next step of any model recovers before it does anything
else: a move with a record had reached every replica and is finished, one without is reverted. The same step run again
continues its own move instead. In each case there is one record per move, and labels never stay half moved.
"""

from __future__ import annotations

from dataclasses import replace

from tfs_deploy.deployment import desired_state, records
from tfs_deploy.deployment.apply import lint_change, reconcile_replica
from tfs_deploy.deployment.desired_state import PREVIOUS, STABLE, DesiredState, LabelMove, StoredState
from tfs_deploy.deployment.drift import require_label_answers, require_no_drift
from tfs_deploy.deployment.lease import Lease
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.deployment.replica_status import GroupStatus, ReplicaStatus, observe, replica_status
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.startup_config import write_startup_config
from tfs_deploy.errors import Refused, StoreError, TFSDeployError
from tfs_deploy.serving.base_client import ServingClient
from tfs_deploy.validation.report import ValidationReport


def read_for_move(session: GroupSession, lease: Lease, model: str, version: int) -> StoredState:
    """Return the desired state; recover an interrupted move first, unless it is one to this very version.

    Raises Refused if the group has not loaded the version.
    """
    stored = desired_state.read(session.store.documents, session.group)
    move = stored.state.move
    is_same_move = move is not None and move.model == model and move.labels.get(STABLE) == version
    if not is_same_move:
        stored = read_and_recover(session, lease)
    if model not in stored.state.models or version not in stored.state.models[model].versions:
        raise Refused(
            f"Version {version} of model {model!r} is not loaded by group {session.group.name!r}.",
            f"Run: tfs-deploy load {model} {version}.",
        )
    return stored


def move_labels(session: GroupSession, lease: Lease, stored: StoredState, record: DeploymentRecord) -> DeploymentRecord:
    """Carry out the move to the version of `record`, and return the record as it was written.

    Where `stable` names that version already, replicas that drifted are brought back, and nothing is recorded.
    """
    model, version = record.model, record.version
    current = stored.state.models[model]
    old = current.labels.get(STABLE)
    labels = current.labels if old == version else _moved(current.labels, version)
    target = stored.state.with_model(model, replace(current, labels=labels))
    _require_ready(session, stored.state, target, model, version)
    started = session.clock.monotonic()
    if labels != current.labels and stored.state.move is None:
        stored = _write_intent(session, stored, record, labels)
    target = replace(target, move=None)
    _move_replicas(session, lease, stored, target, model)
    written = _append_record(session, lease, stored, record, old, session.clock.monotonic() - started)
    _finish_move(session, stored, target)
    return written


def read_and_recover(session: GroupSession, lease: Lease) -> StoredState:
    """Return the desired state without a move: one that was interrupted is finished or reverted first."""
    stored = desired_state.read(session.store.documents, session.group)
    move = stored.state.move
    if move is None:
        return stored
    if _record_of(session, move) is None:
        return _revert_move(session, lease, stored, move, reason="the deployer that began it stopped half way")
    moved = replace(stored.state.models[move.model], labels=move.labels)
    target = replace(stored.state.with_model(move.model, moved), move=None)
    session.call_all(lambda client: reconcile_replica(session, client, target, lease))
    return _finish_move(session, stored, target)


def require_all_replicas_listed(session: GroupSession, report: ValidationReport) -> None:
    """Raise Refused if a replica that is not listed in the group still answers `stable` of the model of `report`.

    Asked are the replicas on which the version was validated and those that the last move of `stable` reached. One of
    the latter that serves the version already is a listed replica under another name. No replica is asked if the
    group's name resolves to its replicas, because then the resolver knows all of them.
    """
    if session.reach is None or session.group.discovered:
        return
    latest = records.latest_move(session.store.documents, session.group.name, report.model)
    known = {*report.replicas, *(latest.replicas if latest else ())}
    for target in sorted(known - set(session.group.replicas)):
        status = _status_of_unlisted(session, target, report.model)
        is_listed_by_another_name = target not in report.replicas and report.version in status.available()
        if STABLE in status.labels and not is_listed_by_another_name:
            raise Refused(
                f"Replica {target} of group {session.group.name!r} answers `stable` of model {report.model!r} from "
                f"version {status.labels[STABLE]}, and it was not named.",
                "Name every replica of the group; stop a server that is no longer one of them.",
            )


def _status_of_unlisted(session: GroupSession, target: str, model: str) -> ReplicaStatus:
    """Return the status of a server that may be gone; empty if it does not answer."""
    assert session.reach is not None
    client = session.reach(target)
    try:
        return replica_status(client, model, (STABLE,), session.timeouts.status)
    except TFSDeployError:
        return ReplicaStatus(target)
    finally:
        client.close()


def _moved(labels: dict[str, int], version: int) -> dict[str, int]:
    old = labels.get(STABLE)
    return {**labels, STABLE: version} if old is None else {**labels, STABLE: version, PREVIOUS: old}


def _require_ready(session: GroupSession, state: DesiredState, target: DesiredState, model: str, version: int) -> None:
    """Refuse a move onto replicas that drifted or do not have the version; bringing back the stable one may."""
    if target == state and state.move is None:
        status = {name: observe(session, name, entry.labels) for name, entry in state.models.items()}
    else:
        status = dict(require_no_drift(session, state))
        _require_available_everywhere(status[model], version)
    lint_change(session, state, target, status)


def _require_available_everywhere(status: GroupStatus, version: int) -> None:
    for replica in status.replicas:
        if version not in replica.available():
            raise Refused(
                f"Version {version} of model {status.model!r} is not AVAILABLE on replica {replica.target}.",
                f"Run: tfs-deploy load {status.model} {version}, then validate it.",
            )


def _write_intent(
    session: GroupSession, stored: StoredState, record: DeploymentRecord, labels: dict[str, int]
) -> StoredState:
    generation = stored.state.generation + 1
    move = LabelMove(record.model, labels, record.action.value, session.actor, record.at, generation)
    return desired_state.write(session.store.documents, session.group, stored, replace(stored.state, move=move))


def _move_replicas(session: GroupSession, lease: Lease, stored: StoredState, target: DesiredState, model: str) -> None:
    """Move every replica at once; after the first error revert them all, and raise it."""

    def move_replica(client: ServingClient) -> None:
        reconcile_replica(session, client, target, lease)
        require_label_answers(session, client, model, target.labels(model))

    results = session.gather_results(move_replica)
    errors = [result for result in results.values() if isinstance(result, TFSDeployError)]
    if errors:
        # The same error object, so that its class still says whether to try again.
        errors[0].remedy = f"{_revert_after(session, lease, stored, errors[0])} {errors[0].remedy}"
        raise errors[0]


def _append_record(
    session: GroupSession, lease: Lease, stored: StoredState, record: DeploymentRecord, old: int | None, seconds: float
) -> DeploymentRecord:
    """Return the record of the move in `stored`, written now unless an interrupted run wrote it."""
    documents, move = session.store.documents, stored.state.move
    if move is None:
        return records.latest_move(documents, record.group, record.model) or record
    written = _record_of(session, move)
    if written is not None:
        return written
    # A deployer that took the lease meanwhile has reverted this move, and then it must not be recorded.
    lease.renew()
    now = session.clock.now().isoformat()
    record = replace(record, at=now, previous=old, seconds=round(seconds, 3), generation=move.generation)
    return records.append(documents, record)


def _record_of(session: GroupSession, move: LabelMove) -> DeploymentRecord | None:
    """Return the record of `move`, which was written once every replica was moved, or None."""
    latest = records.latest_move(session.store.documents, session.group.name, move.model)
    # The version too: generations begin anew where a desired state was lost.
    is_same = latest is not None and (latest.generation, latest.version) == (move.generation, move.labels.get(STABLE))
    return latest if is_same else None


def _finish_move(session: GroupSession, stored: StoredState, target: DesiredState) -> StoredState:
    """Write the start-up file and then `target` as the desired state.

    In this order an interruption leaves the move open, and no replica restarts with old labels after it is closed. A
    start-up file that cannot be written (StoreError) does not keep the move open: a rollback must not wait for a disk.
    """
    try:
        write_startup_config(session.group, target)
    except StoreError:
        desired_state.write(session.store.documents, session.group, stored, target)
        raise
    return desired_state.write(session.store.documents, session.group, stored, target)


def _revert_move(
    session: GroupSession, lease: Lease, stored: StoredState, move: LabelMove, *, reason: str
) -> StoredState:
    """Give every replica its labels from before `move`, drop the move and record that; raise what fails.

    If a replica cannot be reached, the move stays in the desired state and the next step tries again.
    """
    before = replace(stored.state, move=None)
    session.call_all(lambda client: reconcile_replica(session, client, before, lease))
    reverted = desired_state.write(session.store.documents, session.group, stored, before)
    stable = before.labels(move.model).get(STABLE, 0)
    record = records.new_record(session, move.model, Action.PUT_BACK, stable, previous=move.labels.get(STABLE))
    record = replace(record, reason=f"{move.action} by {move.actor}: {reason}")
    records.append(session.store.documents, record)
    return reverted


def _revert_after(session: GroupSession, lease: Lease, stored: StoredState, error: TFSDeployError) -> str:
    """Revert the move in `stored` because of `error`; return one sentence about the outcome."""
    try:
        if stored.state.move is not None:
            _revert_move(session, lease, stored, stored.state.move, reason=error.cause)
    except TFSDeployError as revert_error:
        return (
            f"Putting the labels back did not succeed everywhere either ({revert_error.cause}); "
            "the next step tries again."
        )
    return "Every replica has its labels from before."
