"""What the replicas hold right now, and whether that is what they should hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tfs_deploy.deployment.desired_state import DesiredModel, DesiredState
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import Drift, NotFound, TFSDeployError
from tfs_deploy.serving.protocol import ServingClient, VersionState, VersionStatus


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """What one replica says of one model: its version rows, newest first, and what its labels answer."""

    target: str
    versions: tuple[VersionStatus, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)
    error: str = ""

    def available(self) -> frozenset[int]:
        """Return the versions that answer."""
        return frozenset(row.version for row in self.versions if row.state is VersionState.AVAILABLE)

    def known(self) -> frozenset[int]:
        """Return every version the server remembers, dead ones too: none of these numbers is free."""
        return frozenset(row.version for row in self.versions)


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """What every replica says of one model."""

    model: str
    replicas: tuple[ReplicaStatus, ...]

    def available_everywhere(self) -> frozenset[int]:
        """Return the versions that are AVAILABLE on every replica."""
        found = [replica.available() for replica in self.replicas]
        return frozenset.intersection(*found) if found else frozenset()

    def highest_known(self) -> int:
        """Return the highest number that any replica has ever shown, 0 if none."""
        return max((version for replica in self.replicas for version in replica.known()), default=0)


def observe(session: GroupSession, model: str, labels: Iterable[str]) -> GroupStatus:
    """Ask every replica for the versions of `model` and what each of `labels` answers; raise what fails."""
    wanted = tuple(sorted(set(labels)))
    views = session.call_all(lambda client: replica_status(client, model, wanted, session.timeouts.status))
    return GroupStatus(model, tuple(views.values()))


def observe_leniently(session: GroupSession, model: str, labels: Iterable[str]) -> GroupStatus:
    """Do what `observe` does, with a replica's error in its row instead of raised."""
    wanted = tuple(sorted(set(labels)))
    views = session.gather_results(lambda client: replica_status(client, model, wanted, session.timeouts.status))
    return GroupStatus(
        model,
        tuple(
            ReplicaStatus(target, error=str(view)) if isinstance(view, TFSDeployError) else view
            for target, view in views.items()
        ),
    )


def replica_status(client: ServingClient, model: str, labels: Iterable[str], timeout: float) -> ReplicaStatus:
    """Ask one replica; a label that it does not know, or that dangles, is left out."""
    rows = client.status(model, timeout=timeout)
    answers: dict[str, int] = {}
    # A server that never heard of the model has no labels for it either.
    for label in labels if rows else ():
        try:
            answers[label] = client.metadata(model, label=label, timeout=timeout).version
        except NotFound:
            continue
    return ReplicaStatus(client.target, rows, answers)


def require_no_drift(session: GroupSession, state: DesiredState) -> Mapping[str, GroupStatus]:
    """Return the status of every model; raise Drift if a replica does not hold what it should.

    Every model is looked at, because a reload replaces the config of all of them.
    """
    found = {
        name: observe(session, name, {*model.labels, *_move_labels(state, name)})
        for name, model in sorted(state.models.items())
    }
    for name, status in found.items():
        for replica in status.replicas:
            # A version of ours that is still there is about to go: an unload that is slow, or was interrupted.
            ours = frozenset(session.store.versions(name))
            difference = _difference(replica, state.models[name], _move_labels(state, name), ours)
            if difference:
                raise _drift(name, replica.target, difference, state.models[name])
    return found


def require_unclaimed(status: GroupStatus) -> None:
    """Raise Drift if a replica serves a model that the group's desired state does not know."""
    for replica in status.replicas:
        if replica.available():
            raise Drift(
                f"Replica {replica.target} already serves versions {sorted(replica.available())} of model "
                f"{status.model!r}, which the group's desired state does not know.",
                "Name the start-up config file that it was started with (startup_config), or use another group.",
            )


def _move_labels(state: DesiredState, model: str) -> Mapping[str, int]:
    return state.move.labels if state.move is not None and state.move.model == model else {}


def _difference(replica: ReplicaStatus, model: DesiredModel, moving: Mapping[str, int], ours: frozenset[int]) -> str:
    for label, version in sorted(model.labels.items()):
        answer = replica.labels.get(label)
        if answer != version and (answer is None or answer != moving.get(label)):
            return f"label {label!r} should answer version {version} and answers {answer or 'nothing'}"
    foreign = sorted(replica.available() - set(model.versions) - ours)
    if foreign:
        return f"version {foreign[0]} is AVAILABLE and was not published here"
    return ""


def _drift(name: str, target: str, difference: str, model: DesiredModel) -> Drift:
    stable = model.labels.get("stable")
    cure = f"tfs-deploy promote {name} {stable}" if stable else f"tfs-deploy status {name}"
    return Drift(
        f"Replica {target} has drifted from the desired state of model {name!r}: {difference}.",
        f"Find out who changed it; to put the group back to the desired state run: {cure}.",
    )
