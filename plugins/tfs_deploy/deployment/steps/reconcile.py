"""Step `reconcile`: replicas that do not serve what they should are brought to the desired state.

For replicas that were away during a rollback, that restarted without the start-up file, or that somebody changed by
hand. What they serve goes on answering until what they should serve is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tfs_deploy.clock import Deadline
from tfs_deploy.deployment import desired_state, loaded_since, records
from tfs_deploy.deployment.apply import overlapping, reload_tolerantly, send
from tfs_deploy.deployment.desired_state import STABLE, DesiredState
from tfs_deploy.deployment.differences import labels_to_ask
from tfs_deploy.deployment.drift import find_drift
from tfs_deploy.deployment.label_move import recover
from tfs_deploy.deployment.lease import group_lease, hold, model_lease
from tfs_deploy.deployment.records import Action
from tfs_deploy.deployment.replica_status import GroupStatus, observe_models
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.unload import forget_unloaded
from tfs_deploy.errors import Drift, TFSDeployError, Unreachable
from tfs_deploy.serving.base_client import ServingClient
from tfs_deploy.serving.waiting import wait_until_available

logger = logging.getLogger(__name__)

# A move of labels takes some RPCs.
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What was done: the replicas that were brought to the desired state, and the first difference of each before."""

    group: str
    replicas: dict[str, str]


def reconcile(session: GroupSession) -> Reconciliation:
    """Bring every replica to the desired state of all models; do nothing where none differs.

    Interrupted moves of labels are ended first. A version that a label names is loaded beside what the replica serves,
    and the label moves when it is there; no lease is held during the load. Raises Unreachable, after the others were
    brought over, for a replica that does not answer; LoadFailed, DeadlineExceeded, Contention; Drift for one that
    differs again at the end.
    """
    _end_interrupted_moves(session)
    _forget_what_is_gone(session)
    state, status, differing = _compare(session)
    silent = {each.target: each.error for one in status.values() for each in one.replicas if each.error}
    if differing:
        _restore(replace(session, clients={target: session.clients[target] for target in differing}))
        _record(session, state, differing)
        _note_times(session, state, differing)
    for target, error in sorted(silent.items()):
        raise Unreachable(f"Replica {target} does not answer: {error}", "Run reconcile again when it is back.")
    return Reconciliation(session.group.name, differing)


def _end_interrupted_moves(session: GroupSession) -> None:
    state = desired_state.read(session.store.documents, session.group)
    for model in sorted(name for name, desired in state.models.items() if desired.move is not None):
        try:
            with hold(model_lease(session, model, "reconciliation")) as lease:
                recover(session, lease, model)
        except TFSDeployError as error:
            # Its own replicas may be what is away; the others are still brought over.
            logger.warning("The interrupted move of model %s is still open: %s", model, error.cause)


def _forget_what_is_gone(session: GroupSession) -> None:
    """Drop versions from the desired state that a deployer has unloaded and removed before it died."""
    for model, desired in desired_state.read(session.store.documents, session.group).models.items():
        if desired.unloading:
            forget_unloaded(session, model, ())


def _compare(session: GroupSession) -> tuple[DesiredState, Mapping[str, GroupStatus], dict[str, str]]:
    """Return the desired state, the status of the replicas, and the differing ones, each with its first difference.

    Other deployers may be at work: what differs from a state that was changed meanwhile is compared again.
    """
    documents, deadline = session.store.documents, Deadline.after(session.timeouts.lease, session.clock)
    state = desired_state.read(documents, session.group)
    while True:
        status = observe_models(session, dict.fromkeys(sorted(state.models), labels_to_ask(state)))
        differing = _differing(session, state, status)
        newer = desired_state.read(documents, session.group) if differing else state
        if newer == state or deadline.passed():
            return state, status, differing
        session.clock.sleep(_PAUSE_SECONDS)
        state = newer


def _differing(session: GroupSession, state: DesiredState, status: Mapping[str, GroupStatus]) -> dict[str, str]:
    """Return the replicas that answer and differ from `state`, each with its first difference."""
    differing: dict[str, str] = {}
    for name, group in status.items():
        for replica in group.replicas:
            drift = None if replica.error else find_drift(session, state.models[name], GroupStatus(name, (replica,)))
            missing = set(state.models[name].labelled) - replica.available()
            if drift is not None:
                differing.setdefault(replica.target, drift.cause)
            elif missing and not replica.error:
                differing.setdefault(replica.target, f"version {min(missing)} of model {name!r} is not AVAILABLE")
    return differing


def _restore(session: GroupSession) -> None:
    """Load what the labels name beside what the replicas of `session` serve, then send the desired state."""
    documents = session.store.documents

    def load_desired(client: ServingClient) -> None:
        with hold(group_lease(session, "reconciliation")) as lease:
            # Read under the lease, because another deployer may have sent a newer state. Held only as long as the call
            # takes: a replica without the names loads them inside of it.
            entries = overlapping(session, client, desired_state.read(documents, session.group))
            reload_tolerantly(session, lease, client, entries)

    for client in session.clients.values():
        load_desired(client)
    state = desired_state.read(documents, session.group)
    for name, model in sorted(state.models.items()):
        for version in sorted(set(model.current_labels.values())):
            wait_until_available(session.clients, name, version, limits=session.wait, clock=session.clock)
    send(session, state.generation, purpose="reconciliation", again=True)
    _, _, differing = _compare(session)
    for target, difference in differing.items():
        raise Drift(
            f"Replica {target} differs again from the desired state: {difference}",
            "Look for another deployer, or a config file that the server polls, then run reconcile again.",
        )


def _note_times(session: GroupSession, state: DesiredState, differing: Mapping[str, str]) -> None:
    """Note that the replicas hold the labelled versions since now: a server that restarted lost its earlier load."""
    times = dict.fromkeys(differing, session.clock.now())
    for name, model in state.models.items():
        for version in sorted(model.labelled):
            loaded_since.save(session, name, version, times)


def _record(session: GroupSession, state: DesiredState, differing: Mapping[str, str]) -> None:
    for name, model in sorted(state.models.items()):
        if STABLE in model.labels:
            reason = "; ".join(differing.values())
            record = records.new_record(session, name, Action.RECONCILED, model.labels[STABLE], reason=reason)
            records.append(session.store.documents, replace(record, replicas=tuple(differing)))
