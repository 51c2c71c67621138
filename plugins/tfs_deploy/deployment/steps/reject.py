"""Step `reject`: a version is unloaded and withdrawn from the store; its number is never used again."""

from __future__ import annotations

import logging

from tfs_deploy.deployment import cross_group, desired_state, records, validation_results
from tfs_deploy.deployment.apply import send
from tfs_deploy.deployment.desired_state import DesiredState
from tfs_deploy.deployment.drift import require_no_drift
from tfs_deploy.deployment.label_move import read_and_recover
from tfs_deploy.deployment.lease import Lease, hold
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.startup_config import write_startup_config
from tfs_deploy.errors import NotFound, Refused
from tfs_deploy.names import check_model_name, check_version
from tfs_deploy.serving.waiting import wait_until_gone

logger = logging.getLogger(__name__)


def reject(session: GroupSession, model: str, version: int, *, reason: str) -> DeploymentRecord:
    """Unload `version` everywhere, withdraw it from the store and record why.

    It stays in the store where another group holds it: what failed here may be live there. This group has to validate
    it anew before it could promote it. Raises NotFound for a version that was never published or loaded, Refused for
    one that a label names. Running it again after an error continues.
    """
    check_model_name(model)
    check_version(version)
    require_known_version(session, model, version)
    with hold(session, f"rejection of {model} version {version}") as lease:
        unload(session, lease, model, (version,))
        validation_results.invalidate(session, model, version)
        holder = cross_group.versions_in_use(session, model).get(version)
        if holder is None:
            session.store.withdraw(model, version, reason)
        else:
            logger.warning("Version %s of %s stays in the store, because group %s holds it", version, model, holder)
        record = records.new_record(session, model, Action.REJECTED, version, reason=reason)
        return records.append_once(session.store.documents, record)


def require_known_version(session: GroupSession, model: str, version: int) -> None:
    """Raise NotFound for a version that neither the desired state, nor the store, nor the record knows."""
    documents = session.store.documents
    desired = desired_state.read(documents, session.group).state.models.get(model)
    if desired is not None and version in desired.versions:
        return
    try:
        session.store.manifest(model, version)
    except NotFound:
        # A rejection that was interrupted may have withdrawn it already.
        if not any(entry.version == version for entry in records.history(documents, session.group.name, model)):
            raise


def unload(session: GroupSession, lease: Lease, model: str, versions: tuple[int, ...]) -> DesiredState:
    """Take `versions` out of the desired state, wait until no replica serves them, and return the new state."""
    stored = read_and_recover(session, lease)
    labelled = {number: label for label, number in stored.state.labels(model).items()}
    for version in versions:
        if version in labelled:
            raise Refused(
                f"Version {version} of model {model!r} carries the label {labelled[version]!r}.",
                "Move the label first: what is live or needed for rollback is never taken away.",
            )
    require_no_drift(session, stored.state)
    desired = stored.state.models.get(model)
    if desired is not None:
        left = desired.without(*versions)
        # `specific` with no version unloads everything and logs a warning at each poll: leave the model out.
        target = stored.state.with_model(model, left if left.versions else None)
        stored = desired_state.write(session.store.documents, session.group, stored, target)
        # Sent even if nothing was left to change: an interrupted run may not have sent it.
        for error in send(session, stored.state, lease).values():
            raise error
        write_startup_config(session.group, stored.state)
    for version in versions:
        wait_until_gone(session.clients, model, version, limits=session.wait, clock=session.clock)
    return stored.state
