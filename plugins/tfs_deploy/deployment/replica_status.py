"""What the replicas serve right now: versions with their states, and the version behind each label."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import NotFound, TFSDeployError
from tfs_deploy.serving.base_client import ServingClient
from tfs_deploy.serving.replies import VersionState, VersionStatus


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One model on one replica: its version rows, newest first, the version behind each label, or the error."""

    target: str
    versions: tuple[VersionStatus, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)
    error: str = ""

    def available(self) -> frozenset[int]:
        """Return the versions that answer."""
        return frozenset(row.version for row in self.versions if row.state is VersionState.AVAILABLE)

    def known(self) -> frozenset[int]:
        """Return every version that the server remembers, unloaded ones too: it never loads such a number again."""
        return frozenset(row.version for row in self.versions)


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """One model on every replica."""

    model: str
    replicas: tuple[ReplicaStatus, ...]

    def available_everywhere(self) -> frozenset[int]:
        """Return the versions that are AVAILABLE on every replica."""
        available = [replica.available() for replica in self.replicas]
        return frozenset.intersection(*available) if available else frozenset()

    def highest_known(self) -> int:
        """Return the highest number that any replica has ever shown, 0 if none."""
        return max((version for replica in self.replicas for version in replica.known()), default=0)


def observe(session: GroupSession, model: str, labels: Iterable[str]) -> GroupStatus:
    """Ask every replica for the versions of `model` and the version behind each of `labels`; raise what fails."""
    names = tuple(sorted(set(labels)))
    replicas = session.call_all(lambda client: replica_status(client, model, names, session.timeouts.status))
    return GroupStatus(model, tuple(replicas.values()))


def observe_leniently(session: GroupSession, model: str, labels: Iterable[str]) -> GroupStatus:
    """Do what `observe` does, with a replica's error in its row instead of raised."""
    names = tuple(sorted(set(labels)))
    results = session.gather_results(lambda client: replica_status(client, model, names, session.timeouts.status))
    replicas = (
        ReplicaStatus(target, error=str(result)) if isinstance(result, TFSDeployError) else result
        for target, result in results.items()
    )
    return GroupStatus(model, tuple(replicas))


def replica_status(client: ServingClient, model: str, labels: Iterable[str], timeout: float) -> ReplicaStatus:
    """Ask one replica; a label that it does not know, or that dangles, is left out."""
    rows = client.status(model, timeout=timeout)
    answers: dict[str, int] = {}
    # A server that does not know the model has no labels for it either.
    for label in labels if rows else ():
        try:
            answers[label] = client.metadata(model, label=label, timeout=timeout).version
        except NotFound:
            continue
    return ReplicaStatus(client.target, rows, answers)
