"""Send a config to replicas. The answer of a reload proves nothing (contract 5.3): the status is read afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tfs_deploy.deployment.desired_state import DesiredState
from tfs_deploy.deployment.lease import Lease
from tfs_deploy.deployment.replica_status import GroupStatus, ReplicaStatus, replica_status
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import DeadlineExceeded, ModelServerError, TFSDeployError
from tfs_deploy.serving.base_client import ServingClient
from tfs_deploy.serving.config import ModelEntry, to_proto
from tfs_deploy.serving.config_linter import lint
from tfs_deploy.serving.waiting import wait_until_available


def lint_change(
    session: GroupSession, before: DesiredState, after: DesiredState, status: Mapping[str, GroupStatus]
) -> None:
    """Raise Refused if going from `before` to `after` would break an invariant on these replicas."""
    lint(
        after.entries(),
        current=before.entries(),
        available={name: group.available_everywhere() for name, group in status.items()},
        path_exists=lambda path: _path_exists_for_servers(session, path),
    )


def _path_exists_for_servers(session: GroupSession, path: str) -> bool:
    """Tell whether `path` exists on the model servers' disk; True where that disk cannot be read from here."""
    if session.store.requires_sync_agent:
        # The agents create it before they report a version, and every reload waits for that report.
        return True
    return not Path(session.group.model_root).is_dir() or Path(path).is_dir()


def send(session: GroupSession, state: DesiredState, lease: Lease) -> dict[str, TFSDeployError]:
    """Send the whole config to every replica at once and return the errors, per replica.

    A reload that names a new model waits for its load. So DeadlineExceeded and a load that failed (UNKNOWN) are not
    returned: the caller waits for the status, which says more.
    """
    lease.check()
    config = to_proto(state.entries())

    def reload(client: ServingClient) -> None:
        client.reload(config, timeout=session.timeouts.reload)

    results = session.gather_results(reload)
    return {
        target: result
        for target, result in results.items()
        if isinstance(result, TFSDeployError) and not _is_decided_by_status(result)
    }


def reconcile_replica(session: GroupSession, client: ServingClient, state: DesiredState, lease: Lease) -> None:
    """Bring one replica to `state`, whatever it serves now, while every label answers all the time.

    Where a labelled version is not AVAILABLE yet (a server that restarted empty), or a label answers from another
    version, a first reload lists the old and the new versions together; the labels move once the new ones are loaded.
    """
    current = {
        name: replica_status(client, name, model.labels, session.timeouts.status)
        for name, model in state.models.items()
    }
    overlap = tuple(_overlapping(entry, current[entry.name]) for entry in state.entries())
    if overlap != state.entries():
        lease.check()
        _reload_tolerantly(session, client, overlap)
        for entry in state.entries():
            for version in sorted(set(entry.labels.values())):
                wait_until_available(
                    {client.target: client}, entry.name, version, limits=session.wait, clock=session.clock
                )
    lease.check()
    client.reload(to_proto(state.entries()), timeout=session.timeouts.reload)


def _is_decided_by_status(error: TFSDeployError) -> bool:
    return isinstance(error, DeadlineExceeded) or (isinstance(error, ModelServerError) and error.code == "UNKNOWN")


def _reload_tolerantly(session: GroupSession, client: ServingClient, entries: tuple[ModelEntry, ...]) -> None:
    try:
        client.reload(to_proto(entries), timeout=session.timeouts.reload)
    except TFSDeployError as error:
        if not _is_decided_by_status(error):
            raise


def _overlapping(entry: ModelEntry, current: ReplicaStatus) -> ModelEntry:
    """Return `entry` with the versions that answer its labels now listed too, and no label on an unloaded version."""
    available = current.available()
    labels = {
        label: version if version in available else current.labels[label]
        for label, version in entry.labels.items()
        if version in available or label in current.labels
    }
    answering = set(labels.values()) - set(entry.versions)
    return ModelEntry(entry.name, entry.base_path, tuple(sorted({*entry.versions, *answering})), labels)
