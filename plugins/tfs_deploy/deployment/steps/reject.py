"""Step `reject`: a version is unloaded and withdrawn from the store; its number is never used again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tfs_deploy.deployment import cross_group, desired_state, records, validation_results
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.unload import forget_unloaded, unload
from tfs_deploy.errors import LoadFailed, NotFound, Refused, Transient, ValidationFailed
from tfs_deploy.names import check_model_name, check_version

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
    gone = unload(session, model, (version,), purpose=f"rejection of version {version} of {model}")
    validation_results.invalidate(session, model, version)
    holder = cross_group.versions_in_use(session, model).get(version)
    if holder is None:
        session.store.withdraw(model, version, reason)
    else:
        logger.warning("Version %s of %s stays in the store, because group %s holds it", version, model, holder)
    record = records.new_record(session, model, Action.REJECTED, version, reason=reason)
    rejected = records.append_once(session.store.documents, record)
    forget_unloaded(session, model, gone)
    return rejected


def require_known_version(session: GroupSession, model: str, version: int) -> None:
    """Raise NotFound for a version that neither the desired state, nor the store, nor the record knows."""
    documents = session.store.documents
    desired = desired_state.read(documents, session.group).models.get(model)
    if desired is not None and version in (*desired.versions, *desired.unloading):
        return
    try:
        session.store.manifest(model, version)
    except NotFound:
        # A rejection that was interrupted may have withdrawn it already.
        if not records.mentions(documents, session.group.name, model, version):
            raise


@contextmanager
def reject_on_failure(
    session: GroupSession, model: str, version: int, reject: Callable[..., DeploymentRecord]
) -> Iterator[None]:
    """Reject the version, with a mode's `reject`, if the block raises LoadFailed or ValidationFailed.

    That error passes. Where the version may not be rejected, its remedy says so and why. An error that only interrupts
    the rejection (Unreachable, Contention) passes instead, because the same step run again rejects the version.
    """
    try:
        yield
    except (LoadFailed, ValidationFailed) as error:
        try:
            reject(session, model, version, reason=error.cause)
        except Refused as refused:
            error.remedy = f"{refused.cause} The version was therefore not withdrawn. {error.remedy}"
        except Transient as interrupted:
            interrupted.remedy = f"The version is still to be rejected: {error.cause} {interrupted.remedy}"
            raise interrupted from error
        raise
