"""Bring replicas to a config: lint it, send it, and never trust the answer of a reload (contract 5.3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tfs_deploy.deployment.desired_state import DesiredState
from tfs_deploy.deployment.lease import Lease
from tfs_deploy.deployment.replica_status import GroupStatus, ReplicaStatus, replica_status
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.sync_agents import servers_need_agents
from tfs_deploy.errors import DeadlineExceeded, Drift, ModelServerError, TFSDeployError
from tfs_deploy.serving.config import ModelEntry, to_proto
from tfs_deploy.serving.config_linter import lint
from tfs_deploy.serving.protocol import ServingClient
from tfs_deploy.serving.waiting import wait_until_available


def lint_change(
    session: GroupSession,
    before: DesiredState,
    after: DesiredState,
    status: Mapping[str, GroupStatus],
    *,
    removed: frozenset[str] = frozenset(),
) -> None:
    """Raise Refused if going from `before` to `after` would break an invariant on these replicas."""
    lint(
        after.entries(),
        current=before.entries(),
        available={name: group.available_everywhere() for name, group in status.items()},
        removed=removed,
        path_exists=lambda path: path_exists_for_servers(session, path),
    )


def path_exists_for_servers(session: GroupSession, path: str) -> bool:
    """Tell whether `path` exists as the model servers see it; where their disk is not in sight, assume so."""
    if servers_need_agents(session.store):
        # The agents make it before they report a version, and no reload is sent before they have.
        return True
    return not Path(session.group.model_root).is_dir() or Path(path).is_dir()


def send(session: GroupSession, state: DesiredState, lease: Lease) -> dict[str, TFSDeployError]:
    """Send the whole config to every replica at once and return the errors, per replica.

    A reload that names a new model waits for its load, so running out of time there (DeadlineExceeded) and a load
    that failed (UNKNOWN) are left out: the status tells, and the caller waits for it.
    """
    lease.check()
    config = to_proto(state.entries())

    def reload(client: ServingClient) -> None:
        client.reload(config, timeout=session.timeouts.reload)

    results = session.gather_results(reload)
    return {
        target: result
        for target, result in results.items()
        if isinstance(result, TFSDeployError) and not _leaves_it_to_the_status(result)
    }


def reconcile_replica(session: GroupSession, client: ServingClient, state: DesiredState, lease: Lease) -> None:
    """Bring one replica to `state`, whatever it holds now, without a moment at which a label dangles.

    Where a labelled version is not AVAILABLE yet (a server that restarted empty), or another version answers a label,
    first everything is listed together and loaded, and only then the labels move.
    """
    held = {name: _held(session, client, state, name) for name in state.models}
    together = tuple(_overlapping(entry, held[entry.name]) for entry in state.entries())
    if together != state.entries():
        lease.check()
        _reload_unless_status_tells(session, client, together)
        for entry in state.entries():
            for version in sorted(set(entry.labels.values())):
                wait_until_available(
                    {client.target: client}, entry.name, version, limits=session.wait, clock=session.clock
                )
    lease.check()
    client.reload(to_proto(state.entries()), timeout=session.timeouts.reload)


def require_labels(session: GroupSession, client: ServingClient, model: str, labels: Mapping[str, int]) -> None:
    """Raise Drift unless every label of `model` answers from its version on this replica."""
    answers = replica_status(client, model, labels, session.timeouts.status).labels
    for label, version in sorted(labels.items()):
        if answers.get(label) != version:
            raise Drift(
                f"Replica {client.target} answers label {label!r} of model {model!r} from version "
                f"{answers.get(label) or 'none'} after it was moved to {version}.",
                "Look for another deployer or a config file that the server polls, then run the step again.",
            )


def _leaves_it_to_the_status(error: TFSDeployError) -> bool:
    return isinstance(error, DeadlineExceeded) or (isinstance(error, ModelServerError) and error.code == "UNKNOWN")


def _reload_unless_status_tells(session: GroupSession, client: ServingClient, entries: tuple[ModelEntry, ...]) -> None:
    try:
        client.reload(to_proto(entries), timeout=session.timeouts.reload)
    except TFSDeployError as error:
        if not _leaves_it_to_the_status(error):
            raise


def _held(session: GroupSession, client: ServingClient, state: DesiredState, name: str) -> ReplicaStatus:
    return replica_status(client, name, state.models[name].labels, session.timeouts.status)


def _overlapping(entry: ModelEntry, held: ReplicaStatus) -> ModelEntry:
    available = held.available()
    labels = {
        label: version if version in available else held.labels[label]
        for label, version in entry.labels.items()
        if version in available or label in held.labels
    }
    answering = set(labels.values()) - set(entry.versions)
    return ModelEntry(entry.name, entry.base_path, tuple(sorted({*entry.versions, *answering})), labels)
