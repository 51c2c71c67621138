"""Sync requests: versions that deployers ask the sync agents of a group to download before they are loaded.

A download takes minutes, and nothing may hold the group's lease that long: a rollback must not wait for it. So the
request has a document of its own, and the lease is taken once every agent has the version.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from tfs_deploy.deployment.agent_wait import AgentWait, WaitProgress, wait_until_held
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.sync_agents import agents_are_required
from tfs_deploy.errors import TFSDeployError
from tfs_deploy.jsonable import from_json
from tfs_deploy.store.documents import update
from tfs_deploy.store.protocol import StateDocuments

logger = logging.getLogger(__name__)

# Beyond the load limit; the request of a deployer that died is removed by the next one after that.
_GRACE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """One version, and until when (ISO 8601, UTC) its deployer waits at most."""

    model: str
    version: int
    until: str


@dataclass(frozen=True, slots=True)
class SyncRequests:
    """All versions that deployers of one group wait for."""

    versions: tuple[SyncRequest, ...] = ()

    def adding(self, request: SyncRequest) -> SyncRequests:
        """Return this with `request`, in place of an earlier one for the same version."""
        return SyncRequests((*self.without(request.model, request.version).versions, request))

    def without(self, model: str, version: int) -> SyncRequests:
        """Return this without that version."""
        return SyncRequests(tuple(each for each in self.versions if (each.model, each.version) != (model, version)))

    def without_expired(self, now: datetime) -> SyncRequests:
        """Return this without requests whose deployer must have ended."""
        return SyncRequests(tuple(each for each in self.versions if datetime.fromisoformat(each.until) > now))


def key(group: str) -> str:
    """Return the key of the group's document."""
    return f"groups/{group}/awaited.json"


@contextmanager
def wait_for_agents(session: GroupSession, model: str, version: int) -> Iterator[None]:
    """Wait until every living sync agent of the group holds `version`; they keep it for the block.

    Does nothing for a group without agents. Raises what `wait_until_held` raises.
    """
    if not agents_are_required(session):
        yield
        return
    request_version(session, model, version)
    try:
        wait_until_held(session, model, version)
        yield
    finally:
        cancel_request(session, model, version)


def poll_agents(
    session: GroupSession, model: str, version: int, *, progress: WaitProgress | None = None
) -> WaitProgress | None:
    """Check once whether the agents hold `version`; return the progress for the next poll, or None if they all do.

    For a caller that holds nothing between two polls. `load` afterwards finds the version on every disk and cancels
    the request. What `AgentWait.poll` raises cancels it, too.
    """
    if progress is None and not agents_are_required(session):
        return None
    wait = AgentWait(session, model, version, progress=progress)
    request_version(session, model, version)
    try:
        return None if wait.poll() else wait.progress
    except TFSDeployError:
        cancel_request(session, model, version)
        raise


def request_version(session: GroupSession, model: str, version: int) -> None:
    """Ask the agents to hold `version` until the request is cancelled or expires."""
    limit = timedelta(seconds=session.wait.load + _GRACE_SECONDS)
    request = SyncRequest(model, version, (session.clock.now() + limit).isoformat())
    _update(session, lambda requests: requests.without_expired(session.clock.now()).adding(request))


def is_requested(session: GroupSession, model: str, version: int) -> bool:
    """Tell whether a request for `version` is in the store as this process reads it."""
    requests, _ = read(session.store.documents, session.group.name)
    return any((each.model, each.version) == (model, version) for each in requests.versions)


def cancel_request(session: GroupSession, model: str, version: int) -> None:
    """Remove the request for `version`; log an error of the store instead of raising it."""
    try:
        _update(session, lambda requests: requests.without(model, version))
    except TFSDeployError as error:
        # Agents keep one version longer, and the error that ended the wait is more important.
        logger.warning("The request for version %s of %s was not removed: %s", version, model, error)


def read(documents: StateDocuments, group: str) -> tuple[SyncRequests, str | None]:
    """Return the requests and the document's tag."""
    document = documents.read(key(group))
    return (SyncRequests(), None) if document is None else (from_json(SyncRequests, document.body), document.tag)


def _update(session: GroupSession, change: Callable[[SyncRequests], SyncRequests]) -> None:
    documents, group = session.store.documents, session.group.name
    update(documents, key(group), SyncRequests, change, default=SyncRequests(), clock=session.clock)
