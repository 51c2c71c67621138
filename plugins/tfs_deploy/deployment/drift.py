"""Drift: a replica does not serve what the desired state says, or was left out by the caller."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tfs_deploy.clock import Deadline
from tfs_deploy.deployment import desired_state, records
from tfs_deploy.deployment.apply import send
from tfs_deploy.deployment.desired_state import STABLE, DesiredModel, DesiredState, read_sent
from tfs_deploy.deployment.differences import DifferenceKind, differences, drift_sentence, labels_to_ask
from tfs_deploy.deployment.replica_status import GroupStatus, ReplicaStatus, observe_all, replica_status
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import Contention, Drift, NotFound, Refused, TFSDeployError
from tfs_deploy.names import PLACEHOLDER
from tfs_deploy.serving.base_client import ServingClient

RESTORE = "Find out who changed it; to put the group back to the desired state run: tfs-deploy reconcile."
# A move of labels takes some RPCs.
_PAUSE_SECONDS = 0.2


def require_no_drift(session: GroupSession) -> tuple[DesiredState, Mapping[str, GroupStatus]]:
    """Return the desired state and the status of each of its models; raise Drift where a replica serves another.

    Every model is checked, because a reload replaces the config of all of them. Other deployers may be at work: what
    differs counts only if its model was not changed in the meantime. Raises Contention if that goes on for the time
    that a lease may take, and Unreachable.
    """
    documents, group = session.store.documents, session.group
    deadline = Deadline.after(session.timeouts.lease, session.clock)
    state, sent_before = desired_state.read(documents, group), -1
    while True:
        status = observe_all(session, dict.fromkeys(sorted(state.models), labels_to_ask(state)))
        drifts = {name: drift for name in status if (drift := find_drift(session, state.models[name], status[name]))}
        if not drifts:
            return state, status
        newer = desired_state.read(documents, group)
        sent = read_sent(documents, group.name).generation
        in_time = not deadline.passed()
        if in_time and any(name in newer.models and newer.models[name].generation > sent for name in drifts):
            # A change that was written and not sent is no drift; whoever wrote it may have died before it was sent.
            send(session, newer.generation, purpose="change that was not sent")
            state = newer
            continue
        if in_time and any(name in newer.models and newer.models[name].generation > sent_before for name in drifts):
            # The replicas may have been asked before another deployer sent the change.
            state, sent_before = newer, sent
            continue
        for name, drift in drifts.items():
            if newer.models.get(name) == state.models[name]:
                raise drift
        if not in_time:
            raise Contention(
                f"The models {', '.join(sorted(drifts))} of group {group.name!r} are changed all the time.",
                "Try again when the other deployers are done.",
            )
        session.clock.sleep(_PAUSE_SECONDS)
        state = newer


def find_drift(session: GroupSession, model: DesiredModel, status: GroupStatus) -> Drift | None:
    """Return an error that names what replicas serve otherwise than `model` says, `stable` first, or None."""
    moving = model.move.labels if model.move else None
    unloading = {*model.unloading, PLACEHOLDER}
    every = differences(model, status, published=(), moving=moving, unloading=unloading)
    if any(each.kind is DifferenceKind.VERSION_FOREIGN for each in every):
        # Listed only now, because that costs a request to the store per model.
        published = session.store.versions(status.model)
        every = differences(model, status, published=published, moving=moving, unloading=unloading)
    sentence = drift_sentence(every)
    if not sentence:
        return None
    return Drift(sentence, RESTORE)


def require_unclaimed(status: GroupStatus) -> None:
    """Raise Drift if a replica serves a model that the group's desired state does not know."""
    for replica in status.replicas:
        if replica.available():
            raise Drift(
                f"Replica {replica.target} already serves versions {sorted(replica.available())} of model "
                f"{status.model!r}, which the group's desired state does not know.",
                "Name the start-up config file that it was started with (startup_config), or use another group.",
            )


def require_available_everywhere(status: GroupStatus, version: int) -> None:
    """Raise Refused unless every replica serves `version`."""
    for replica in status.replicas:
        if version not in replica.available():
            raise Refused(
                f"Version {version} of model {status.model!r} is not AVAILABLE on replica {replica.target}.",
                f"Run: tfs-deploy load {status.model} {version}, then validate it.",
            )


def require_label_answers(session: GroupSession, client: ServingClient, model: str, labels: Mapping[str, int]) -> None:
    """Raise Drift unless every label of `model` answers from its version on this replica."""
    for label, version in sorted(labels.items()):
        try:
            answer: int | str = client.metadata(model, label=label, timeout=session.timeouts.status).version
        except NotFound:
            answer = "none"
        if answer != version:
            raise Drift(
                f"Replica {client.target} answers label {label!r} of model {model!r} from version {answer} after it "
                f"was moved to {version}.",
                "Look for another deployer or a config file that the server polls, then run the step again.",
            )


def require_all_replicas_listed(
    session: GroupSession, model: str, version: int, *, validated_on: Collection[str] = ()
) -> None:
    """Raise Refused if a replica that is not listed in the group still answers `stable` of `model`.

    Asked are the replicas on which `version` was validated and those of the last move of `stable`. One of the latter
    that serves the version already is a listed replica under another name. No replica is asked if the group's name
    resolves to its replicas, because then the resolver knows all of them.
    """
    for status in _unlisted_replicas(session, model, validated_on):
        is_listed_by_another_name = status.target not in validated_on and version in status.available()
        if STABLE in status.labels and not is_listed_by_another_name:
            raise Refused(
                f"Replica {status.target} of group {session.group.name!r} answers `stable` of model {model!r} from "
                f"version {status.labels[STABLE]}, and it was not named.",
                "Name every replica of the group; stop a server that is no longer one of them.",
            )


def replicas_left_out(session: GroupSession, model: str, version: int) -> tuple[str, ...]:
    """Return the replicas of the last move that are not listed and answer `stable` otherwise, now that it moved.

    One that answers from `version` is a listed replica under another name.
    """
    unlisted = _unlisted_replicas(session, model)
    return tuple(status.target for status in unlisted if status.labels.get(STABLE, version) != version)


def _unlisted_replicas(session: GroupSession, model: str, validated_on: Collection[str] = ()) -> list[ReplicaStatus]:
    if session.reach is None or session.group.discovered:
        return []
    latest = records.latest_move(session.store.documents, session.group.name, model)
    known = {*validated_on, *((*latest.replicas, *latest.away) if latest else ())}
    return [_status_of_unlisted(session, target, model) for target in sorted(known - set(session.group.replicas))]


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
