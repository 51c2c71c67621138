"""What an operator does with a version that failed: out of every replica and the store's sight, then say why."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn

from tfs_deploy.errors import Permanent, Refused
from tfs_deploy.serving.group import Mode

if TYPE_CHECKING:
    from tfs_deploy.deployment.session import GroupSession

logger = logging.getLogger(__name__)


def take_back(session: GroupSession, model: str, version: int, *, reason: str) -> Any:
    """Reject `version` by the protocol of the group's mode; raise Refused for a version that is needed."""
    from tfs_deploy.deployment.modes.latest import withdraw
    from tfs_deploy.deployment.steps.reject import reject

    if session.group.mode is Mode.LATEST:
        return withdraw(session, model, version, reason=reason)
    return reject(session, model, version, reason=reason)


def fail_and_take_back(session: GroupSession, model: str, version: int, error: Permanent) -> NoReturn:
    """Reject `version` because of `error`, and raise `error`; a version that is live or labelled stays where it is."""
    try:
        take_back(session, model, version, reason=error.cause)
    except Refused as refused:
        logger.warning("Version %s of %s failed but was not taken back: %s", version, model, refused.cause)
    raise error
