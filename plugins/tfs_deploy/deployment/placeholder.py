"""The placeholder of a model whose first version loads: its files on the disks of the model servers.

A reload that names a new model waits for its first version, and no label of any model moves meanwhile (contract 20.14).
So a new name is served by the placeholder first, under number 0, and the real version loads beside it. The desired
state lists 0 as long as replicas should serve it. The placeholder is never validated, labelled or recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tfs_deploy.deployment import desired_state, sync_requests
from tfs_deploy.deployment.agent_wait import wait_until_held
from tfs_deploy.deployment.desired_state import DesiredState
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.sync_agents import agents_are_required
from tfs_deploy.deployment.sync_requests import cancel_request, request_version
from tfs_deploy.errors import TFSDeployError
from tfs_deploy.jsonable import from_json
from tfs_deploy.names import PLACEHOLDER

logger = logging.getLogger(__name__)

_PREFIX = "groups/"


@contextmanager
def laid_down(session: GroupSession, model: str) -> Iterator[None]:
    """Show every replica's disk the placeholder of `model`; it stays there for the block.

    The block writes a desired state that lists it, which keeps it from then on. After an error in the block it is
    removed, unless somebody else needs it. Raises Refused where something else has its number, and what waiting for the
    sync agents raises.
    """
    # The request keeps the agents from removing it, and another deployer from removing it from a shared disk.
    request_version(session, model, PLACEHOLDER)
    try:
        session.store.put_placeholder(model)
        if agents_are_required(session):
            wait_until_held(session, model, PLACEHOLDER)
        yield
    except TFSDeployError:
        remove(session, model)
        raise
    finally:
        cancel_request(session, model, PLACEHOLDER)


def remove(session: GroupSession, model: str) -> bool:
    """Remove the placeholder of `model` from a shared disk, unless a group's desired state or a deployer needs it.

    To be called once no replica serves it any more, and again after a crash. Sync agents remove theirs by themselves.
    Returns whether nothing is left to do: an error of the store is logged instead of raised, because it is no fault of
    the version that has loaded, and model servers ignore a placeholder that no config lists.
    """
    cancel_request(session, model, PLACEHOLDER)
    if session.store.requires_sync_agent:
        return True
    try:
        if _is_needed(session, model):
            return True
        session.store.remove_placeholder(model)
        # A deployer that asked for it between the check and the removal has found it there.
        if _is_needed(session, model):
            session.store.put_placeholder(model)
    except TFSDeployError as error:
        logger.warning("The placeholder of %s was not removed: %s", model, error)
        return False
    return True


def _is_needed(session: GroupSession, model: str) -> bool:
    """Tell whether any group of the store lists the placeholder of `model`, or a deployer has asked for it."""
    documents, now = session.store.documents, session.clock.now()
    for group in documents.folders(_PREFIX):
        requests, _ = sync_requests.read(documents, group)
        asked = requests.without_expired(now).versions
        if any((each.model, each.version) == (model, PLACEHOLDER) for each in asked):
            return True
        document = documents.read(desired_state.key(group))
        state = DesiredState() if document is None else from_json(DesiredState, document.body)
        if model in state.models and PLACEHOLDER in state.models[model].versions:
            return True
    return False
