"""Versions that a deployer waits for on the replicas' disks, before any replica or the desired state hears of them.

A transfer takes minutes, and nobody may hold the group's lease that long: a rollback must not wait for it. So the
sync agents are told in a document of its own, and the lease is taken when they have the version.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from tfs_deploy.deployment.agent_wait import AgentWait, WaitProgress, wait_until_held
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.sync_agents import agents_are_asked
from tfs_deploy.errors import TFSDeployError
from tfs_deploy.jsonable import from_json
from tfs_deploy.store.documents import update
from tfs_deploy.store.protocol import StateDocuments

logger = logging.getLogger(__name__)

# What a deployer that died left behind; the next one that waits for anything removes it.
_GRACE_SECONDS = 300.0

_Change = Callable[["Awaited"], "Awaited"]


@dataclass(frozen=True, slots=True)
class AwaitedVersion:
    """One version, and until when (ISO 8601, UTC) its deployer waits at the most."""

    model: str
    version: int
    until: str


@dataclass(frozen=True, slots=True)
class Awaited:
    """All versions that deployers of one group wait for."""

    versions: tuple[AwaitedVersion, ...] = ()

    def adding(self, wanted: AwaitedVersion) -> Awaited:
        """Return this with `wanted`."""
        return Awaited((*self.dropping(wanted.model, wanted.version).versions, wanted))

    def dropping(self, model: str, version: int) -> Awaited:
        """Return this without that version."""
        return Awaited(tuple(each for each in self.versions if (each.model, each.version) != (model, version)))

    def pruned(self, now: datetime) -> Awaited:
        """Return this without what nobody can be waiting for any more."""
        return Awaited(tuple(each for each in self.versions if datetime.fromisoformat(each.until) > now))


def key(group: str) -> str:
    """Return the key of the group's document."""
    return f"groups/{group}/awaited.json"


@contextmanager
def wait_for_agents(session: GroupSession, model: str, version: int) -> Iterator[None]:
    """Wait until every living sync agent of the group holds `version`; they keep it for the block.

    Does nothing where nobody has to bring anything. Raises what `wait_until_held` raises.
    """
    if not agents_are_asked(session):
        yield
        return
    ask(session, model, version)
    try:
        wait_until_held(session, model, version)
        yield
    finally:
        forget(session, model, version)


def ask(session: GroupSession, model: str, version: int) -> None:
    """Tell the agents that somebody waits for `version`: until he says otherwise, or long enough."""
    patience = timedelta(seconds=session.wait.load + _GRACE_SECONDS)
    wanted = AwaitedVersion(model, version, (session.clock.now() + patience).isoformat())
    _change(session, lambda held: held.pruned(session.clock.now()).adding(wanted))


def poll_agents(
    session: GroupSession, model: str, version: int, *, so_far: WaitProgress | None = None
) -> WaitProgress | None:
    """Ask the agents for `version`, and return what the next look begins with; None if nobody has to be waited for.

    For whoever waits between two looks without holding anything. `load` afterwards finds the version on every disk,
    and ends the asking. Raises what `AgentWait.look` raises, and nobody is asked any more.
    """
    if so_far is None and not agents_are_asked(session):
        return None
    wait = AgentWait(session, model, version, so_far=so_far)
    ask(session, model, version)
    try:
        return None if wait.look() else wait.so_far
    except TFSDeployError:
        forget(session, model, version)
        raise


def forget(session: GroupSession, model: str, version: int) -> None:
    """Tell the agents that nobody waits any more; a store that is away is not worth an error."""
    try:
        _change(session, lambda held: held.dropping(model, version))
    except TFSDeployError as error:
        # Agents keep one version longer; what ended the wait is more important.
        logger.warning("Version %s of %s is still noted as awaited: %s", version, model, error)


def read(documents: StateDocuments, group: str) -> tuple[Awaited, str | None]:
    """Return what is awaited and the document's tag."""
    document = documents.read(key(group))
    return (Awaited(), None) if document is None else (from_json(Awaited, document.body), document.tag)


def _change(session: GroupSession, change: _Change) -> None:
    update(session.store.documents, key(session.group.name), Awaited, change, default=Awaited(), clock=session.clock)
