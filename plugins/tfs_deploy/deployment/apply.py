"""Send the desired state to the replicas: the newest one, under the group's lease, for everybody who waits for it.

A change is written into the desired state first (`desired_state.change`). Whoever then holds the lease sends what is
newest, so that the changes of many deployers travel in few reloads. The answer of a reload proves nothing
(contract 5.3): every step checks what it needs by the status afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from tfs_deploy.deployment import desired_state
from tfs_deploy.deployment.desired_state import DesiredState, SendError, SentState, read_sent, write_sent
from tfs_deploy.deployment.lease import Lease, LeasePauses, group_lease, kept
from tfs_deploy.deployment.replica_status import GroupStatus, ReplicaStatus, replica_status
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.startup_config import write_startup_config
from tfs_deploy.errors import DeadlineExceeded, ModelServerError, SetupError, StoreError, TFSDeployError
from tfs_deploy.serving.base_client import ServingClient
from tfs_deploy.serving.config import ModelEntry, to_proto
from tfs_deploy.serving.config_linter import lint


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


def send(
    session: GroupSession, generation: int, *, purpose: str, again: bool = False, skip: Collection[str] = ()
) -> SentState:
    """Let every replica have the newest desired state, which is at least `generation`; return what was sent.

    Waits for the group's lease, but only until somebody else has sent `generation`; `again`: send it all the same,
    because a replica may have lost it since. The start-up file is written first, so that a replica that restarts, or
    is away, comes up with what is desired. Replicas in `skip` are not asked. A replica that refuses a label, because
    it does not serve that version, gets the rest of the config. Errors are returned per replica; raises Contention,
    and what the store raises.

    A reload that names a new model waits for its load. So DeadlineExceeded and a load that failed (UNKNOWN) are no
    errors here: the caller waits for the status, which says more.
    """
    documents, group = session.store.documents, session.group
    asked = [target for target in session.clients if target not in skip]
    lease, pauses = group_lease(session, purpose), LeasePauses(session, f"group {group.name!r}")
    while (holder := lease.try_acquire()) is not None:
        sent = read_sent(documents, group.name)
        if sent.settles(generation, asked) and not again:
            return sent.on(asked)
        pauses.wait(holder)
    with kept(lease):
        sent = read_sent(documents, group.name)
        if sent.settles(generation, asked) and not again:
            return sent.on(asked)
        clients = {target: session.clients[target] for target in asked}
        sent = _send_all(replace(session, clients=clients), lease, desired_state.read(documents, group))
        write_sent(session, sent)
        return sent


def _send_all(session: GroupSession, lease: Lease, state: DesiredState) -> SentState:
    startup_error = None
    try:
        write_startup_config(session.group, state)
    except StoreError as error:
        # A rollback must not wait for a disk: the replicas are moved, and the caller raises this afterwards.
        startup_error = SendError.of(error)
    results = session.gather_results(lambda client: reload_replica(session, lease, client, state))
    errors = {target: SendError.of(result) for target, result in results.items() if isinstance(result, TFSDeployError)}
    return SentState(state.generation, tuple(session.clients), errors, startup_error)


def reload_replica(session: GroupSession, lease: Lease, client: ServingClient, state: DesiredState) -> None:
    """Send `state` to one replica, without the labels that it cannot move now; every label answers all the time."""
    try:
        reload_tolerantly(session, lease, client, state.entries())
    except ModelServerError as error:
        if error.code != "FAILED_PRECONDITION":
            raise
        # A label on a version that it does not serve refuses the whole config, with the changes of all models.
        reload_tolerantly(session, lease, client, overlapping(session, client, state))


def overlapping(session: GroupSession, client: ServingClient, state: DesiredState) -> tuple[ModelEntry, ...]:
    """Return the config of `state` with each label on a version that the replica serves now, if there is one.

    The versions that answer its labels now stay listed, beside those of `state`.
    """
    return tuple(
        _overlapping(entry, replica_status(client, entry.name, entry.labels, session.timeouts.status))
        for entry in state.entries()
    )


def _overlapping(entry: ModelEntry, current: ReplicaStatus) -> ModelEntry:
    available = current.available()
    labels = {
        label: version if version in available else current.labels[label]
        for label, version in entry.labels.items()
        if version in available or label in current.labels
    }
    answering = set(labels.values()) - set(entry.versions)
    return ModelEntry(entry.name, entry.base_path, tuple(sorted({*entry.versions, *answering})), labels)


def reload_tolerantly(
    session: GroupSession, lease: Lease, client: ServingClient, entries: tuple[ModelEntry, ...]
) -> None:
    """Send `entries` to one replica; a reload whose outcome the status decides raises nothing."""
    try:
        # Before every attempt: a busy server is asked for longer than a lease lasts.
        client.reload(to_proto(entries), timeout=session.timeouts.reload, before_attempt=lease.check)
    except DeadlineExceeded:
        return
    except SetupError:
        raise
    except ModelServerError as error:
        if error.code != "UNKNOWN":
            raise
