"""Step `promote`: label `stable` moves to a version that passed its gates, on all replicas or on none."""

from __future__ import annotations

from dataclasses import replace

from tfs_deploy.deployment import desired_state, members, records, validation_results
from tfs_deploy.deployment.apply import lint_change, reconcile_replica, require_labels
from tfs_deploy.deployment.desired_state import PREVIOUS, STABLE, DesiredState, LabelMove, StoredState
from tfs_deploy.deployment.label_move import read_and_recover, recorded, settle, try_to_revert
from tfs_deploy.deployment.lease import Lease, hold
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.deployment.replica_status import GroupStatus, observe, require_no_drift
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import Refused, TFSDeployError
from tfs_deploy.names import check_model_name, check_version
from tfs_deploy.serving.protocol import ServingClient
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
        held = read_for_move(session, lease, model, version)
        live = held.state.labels(model).get(STABLE, 0)
        # Still: somebody may have promoted another one before the lease was free.
        if adopted and live == version and held.state.move is None:
            return move_labels(session, lease, held, records.new_record(session, model, Action.PROMOTED, version))
        if held.state.move is None:
            records.find_by_key(session, model, idempotency_key)
        replicas = () if live == version else session.group.replicas
        report = validation_results.require(
            session.store.documents,
            session.group.name,
            model,
            version,
            fingerprint=fingerprint,
            replicas=replicas,
            stable=None if live == version else live,
        )
        if live != version:
            members.require_all(session, report)
        draft = records.new_record(
            session,
            model,
            Action.PROMOTED,
            version,
            fingerprint=fingerprint,
            reason=reason or report.reason(),
            measured=worst_metrics(report),
            idempotency_key=idempotency_key,
        )
        return move_labels(session, lease, held, draft)


def _is_adopted(session: GroupSession, model: str, version: int) -> bool:
    """Tell whether `version` is stable because the start-up file said so before the first deploy.

    Of such a version nothing is proved, and the store may not have it; replicas that lost it are brought back to it.
    """
    documents, group = session.store.documents, session.group
    is_stable = desired_state.read(documents, group).state.labels(model).get(STABLE) == version
    return is_stable and records.latest_move(documents, group.name, model) is None


def move_labels(session: GroupSession, lease: Lease, held: StoredState, draft: DeploymentRecord) -> DeploymentRecord:
    """Carry out the move that `draft` describes: intent, replicas, record, start-up file, state, in that order.

    Whatever is interrupted, running the same step again ends at the same place, with one record.
    """
    model, version = draft.model, draft.version
    current = held.state.models[model]
    old = current.labels.get(STABLE)
    labels = current.labels if old == version else _moved(current.labels, version)
    wanted = held.state.with_model(model, replace(current, labels=labels))
    _require_ready(session, held.state, wanted, model, version)
    started = session.clock.monotonic()
    if labels != current.labels and held.state.move is None:
        generation = held.state.generation + 1
        move = LabelMove(model, labels, draft.action.value, session.actor, draft.at, generation)
        held = desired_state.write(session.store.documents, session.group, held, replace(held.state, move=move))
    _move_everywhere(session, lease, held, replace(wanted, move=None), model)
    done = _recorded(session, lease, held, draft, old, session.clock.monotonic() - started)
    settle(session, held, replace(wanted, move=None))
    return done


def _recorded(
    session: GroupSession, lease: Lease, held: StoredState, draft: DeploymentRecord, old: int | None, seconds: float
) -> DeploymentRecord:
    """Return the record of the move that `held` has begun, written now unless it is there already."""
    documents, begun = session.store.documents, held.state.move
    if begun is None:
        return records.latest_move(documents, draft.group, draft.model) or draft
    done = recorded(session, begun)
    if done is not None:
        return done
    # Whoever took the lease meanwhile has put the labels back, and nothing may be recorded that is not so.
    lease.renew()
    moved = replace(draft, at=session.clock.now().isoformat(), previous=old, seconds=round(seconds, 3))
    return records.append(documents, replace(moved, generation=begun.generation))


def read_for_move(session: GroupSession, lease: Lease, model: str, version: int) -> StoredState:
    """Return the desired state; an interrupted move to this very version is kept, to be finished."""
    held = desired_state.read(session.store.documents, session.group)
    move = held.state.move
    ours = move is not None and move.model == model and move.labels.get(STABLE) == version
    held = held if ours else read_and_recover(session, lease)
    if model not in held.state.models or version not in held.state.models[model].versions:
        raise Refused(
            f"Version {version} of model {model!r} is not loaded by group {session.group.name!r}.",
            f"Run: tfs-deploy load {model} {version}.",
        )
    return held


def _moved(labels: dict[str, int], version: int) -> dict[str, int]:
    old = labels.get(STABLE)
    return {**labels, STABLE: version} if old is None else {**labels, STABLE: version, PREVIOUS: old}


def _require_ready(session: GroupSession, state: DesiredState, wanted: DesiredState, model: str, version: int) -> None:
    """Refuse a move onto replicas that drifted or do not hold the version; bringing back the stable one may."""
    if wanted == state and state.move is None:
        status = {name: observe(session, name, entry.labels) for name, entry in state.models.items()}
    else:
        status = dict(require_no_drift(session, state))
        _require_everywhere(status[model], version)
    lint_change(session, state, wanted, status)


def _require_everywhere(status: GroupStatus, version: int) -> None:
    for replica in status.replicas:
        if version not in replica.available():
            raise Refused(
                f"Version {version} of model {status.model!r} is not AVAILABLE on replica {replica.target}.",
                f"Run: tfs-deploy load {status.model} {version}, then validate it.",
            )


def _move_everywhere(session: GroupSession, lease: Lease, held: StoredState, wanted: DesiredState, model: str) -> None:
    def move(client: ServingClient) -> None:
        reconcile_replica(session, client, wanted, lease)
        require_labels(session, client, model, wanted.labels(model))

    results = session.gather_results(move)
    errors = [result for result in results.values() if isinstance(result, TFSDeployError)]
    if errors:
        told = try_to_revert(session, lease, held, errors[0])
        # The same error object, so that its kind still tells the caller whether to try again.
        errors[0].remedy = f"{told} {errors[0].remedy}"
        raise errors[0]
