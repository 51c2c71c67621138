"""Drift: a replica does not serve what the desired state says."""

from __future__ import annotations

from collections.abc import Mapping

from tfs_deploy.deployment.desired_state import STABLE, DesiredModel, DesiredState
from tfs_deploy.deployment.replica_status import GroupStatus, ReplicaStatus, observe, replica_status
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import Drift
from tfs_deploy.serving.base_client import ServingClient


def require_no_drift(session: GroupSession, state: DesiredState) -> Mapping[str, GroupStatus]:
    """Return the status of every model; raise Drift if a replica does not serve what it should.

    Every model is checked, because a reload replaces the config of all of them.
    """
    statuses = {
        name: observe(session, name, {*model.labels, *_labels_in_move(state, name)})
        for name, model in sorted(state.models.items())
    }
    for name, status in statuses.items():
        model, published = state.models[name], frozenset(session.store.versions(name))
        for replica in status.replicas:
            difference = _difference(replica, model, _labels_in_move(state, name), published)
            if difference:
                stable = model.labels.get(STABLE)
                cure = f"tfs-deploy promote {name} {stable}" if stable else f"tfs-deploy status {name}"
                raise Drift(
                    f"Replica {replica.target} has drifted from the desired state of model {name!r}: {difference}.",
                    f"Find out who changed it; to put the group back to the desired state run: {cure}.",
                )
    return statuses


def require_unclaimed(status: GroupStatus) -> None:
    """Raise Drift if a replica serves a model that the group's desired state does not know."""
    for replica in status.replicas:
        if replica.available():
            raise Drift(
                f"Replica {replica.target} already serves versions {sorted(replica.available())} of model "
                f"{status.model!r}, which the group's desired state does not know.",
                "Name the start-up config file that it was started with (startup_config), or use another group.",
            )


def require_label_answers(session: GroupSession, client: ServingClient, model: str, labels: Mapping[str, int]) -> None:
    """Raise Drift unless every label of `model` answers from its version on this replica."""
    answers = replica_status(client, model, labels, session.timeouts.status).labels
    for label, version in sorted(labels.items()):
        if answers.get(label) != version:
            raise Drift(
                f"Replica {client.target} answers label {label!r} of model {model!r} from version "
                f"{answers.get(label) or 'none'} after it was moved to {version}.",
                "Look for another deployer or a config file that the server polls, then run the step again.",
            )


def _labels_in_move(state: DesiredState, model: str) -> Mapping[str, int]:
    return state.move.labels if state.move is not None and state.move.model == model else {}


def _difference(
    replica: ReplicaStatus, model: DesiredModel, moving: Mapping[str, int], published: frozenset[int]
) -> str:
    """Return how the replica differs from `model`, empty if it does not; a label may be half way through a move."""
    for label, version in sorted(model.labels.items()):
        answer = replica.labels.get(label)
        if answer != version and (answer is None or answer != moving.get(label)):
            return f"label {label!r} should answer version {version} and answers {answer or 'nothing'}"
    # A published version that is not desired any more is about to go: its unload is slow, or was interrupted.
    foreign = sorted(replica.available() - set(model.versions) - published)
    if foreign:
        return f"version {foreign[0]} is AVAILABLE and was not published here"
    return ""
