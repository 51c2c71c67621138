"""What the replicas serve right now: versions with their states, and the version behind each label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import NotFound, Permanent, TFSDeployError
from tfs_deploy.serving.base_client import ServingClient
from tfs_deploy.serving.replies import Metadata, VersionState, VersionStatus
from tfs_deploy.serving.rpc_calls import run_blocking
from tfs_deploy.serving.sweep import ask_each

# So many replicas are asked at once through their blocking clients.
_SMALL_GROUP = 16


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


_Answer: TypeAlias = "ReplicaStatus | TFSDeployError"


def observe(session: GroupSession, model: str, labels: Iterable[str]) -> GroupStatus:
    """Ask every replica for the versions of `model` and the version behind each of `labels`; raise what fails."""
    return observe_all(session, {model: labels})[model]


def observe_all(session: GroupSession, labels: Mapping[str, Iterable[str]]) -> dict[str, GroupStatus]:
    """Do what `observe` does for each model that `labels` names, in one sweep over the replicas."""
    statuses: dict[str, GroupStatus] = {}
    for model, answers in _ask_replicas(session, labels).items():
        replicas = []
        for answer in answers.values():
            if isinstance(answer, TFSDeployError):
                raise answer
            replicas.append(answer)
        statuses[model] = GroupStatus(model, tuple(replicas))
    return statuses


def observe_leniently(session: GroupSession, model: str, labels: Iterable[str]) -> GroupStatus:
    """Do what `observe` does, with a replica's error in its row instead of raised."""
    return observe_models(session, {model: labels})[model]


def observe_models(session: GroupSession, labels: Mapping[str, Iterable[str]]) -> dict[str, GroupStatus]:
    """Do what `observe_leniently` does for each model that `labels` names, in one sweep over the replicas."""
    return {
        model: GroupStatus(
            model,
            tuple(
                ReplicaStatus(target, error=str(answer)) if isinstance(answer, TFSDeployError) else answer
                for target, answer in answers.items()
            ),
        )
        for model, answers in _ask_replicas(session, labels).items()
    }


def replica_status(client: ServingClient, model: str, labels: Iterable[str], timeout: float) -> ReplicaStatus:
    """Ask one replica; a label that it does not know, or that dangles, is left out."""
    return run_blocking(_replica_status(_BlockingReplica(client), model, labels, timeout))


class _Replica(Protocol):
    """What is asked of a replica, by an asyncio client or a blocking one."""

    @property
    def target(self) -> str: ...

    async def status(self, model: str, *, timeout: float) -> tuple[VersionStatus, ...]: ...

    async def metadata(self, model: str, *, label: str, timeout: float) -> Metadata: ...


@dataclass(frozen=True, slots=True)
class _BlockingReplica:
    client: ServingClient

    @property
    def target(self) -> str:
        return self.client.target

    async def status(self, model: str, *, timeout: float) -> tuple[VersionStatus, ...]:
        return self.client.status(model, timeout=timeout)

    async def metadata(self, model: str, *, label: str, timeout: float) -> Metadata:
        return self.client.metadata(model, label=label, timeout=timeout)


async def _replica_status(replica: _Replica, model: str, labels: Iterable[str], timeout: float) -> ReplicaStatus:
    rows = await replica.status(model, timeout=timeout)
    answers: dict[str, int] = {}
    # A server that does not know the model has no labels for it either.
    for label in labels if rows else ():
        try:
            answers[label] = (await replica.metadata(model, label=label, timeout=timeout)).version
        except NotFound:
            continue
    return ReplicaStatus(replica.target, rows, answers)


def _ask_replicas(session: GroupSession, labels: Mapping[str, Iterable[str]]) -> dict[str, dict[str, _Answer]]:
    """Return by model and target what each replica answers, or its error.

    A small group is asked over the connections that are open. A larger one is asked at once, which takes a connection
    more for each replica.
    """
    wanted = {model: tuple(sorted(set(names))) for model, names in labels.items()}

    async def ask(replica: _Replica) -> dict[str, _Answer]:
        answers: dict[str, _Answer] = {}
        for model, names in wanted.items():
            try:
                answers[model] = await _replica_status(replica, model, names, session.timeouts.status)
            except Permanent as error:
                answers[model] = error
        return answers

    # A Transient error ends the questions to its replica: each of them would wait until its timeout.
    results: Mapping[str, dict[str, _Answer] | TFSDeployError]
    if session.connect_aio is None or len(session.clients) <= _SMALL_GROUP:
        results = session.gather_results(lambda client: run_blocking(ask(_BlockingReplica(client))))
    else:
        results = ask_each(session.connect_aio, session.clients, ask)
    return {
        model: {
            target: result if isinstance(result, TFSDeployError) else result[model]
            for target, result in results.items()
        }
        for model in wanted
    }
