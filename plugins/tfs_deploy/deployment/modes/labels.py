"""Mode `labels`: a version answers production traffic once the label `stable` was moved to it."""

from __future__ import annotations

from pathlib import Path

from tfs_deploy.deployment import desired_state
from tfs_deploy.deployment.desired_state import STABLE
from tfs_deploy.deployment.modes.interface import Deployed, RunnerFactory, StepListener, StepTimer
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.label import remove_label, set_label
from tfs_deploy.deployment.steps.load import load, wait_until_available
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.publish import publish
from tfs_deploy.deployment.steps.reconcile import reconcile
from tfs_deploy.deployment.steps.reject import reject, reject_on_failure
from tfs_deploy.deployment.steps.retire import retire
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.deployment.steps.undeploy import undeploy
from tfs_deploy.deployment.steps.validate import validate
from tfs_deploy.errors import LoadFailed
from tfs_deploy.store.protocol import Progress
from tfs_deploy.validation.config import Gates
from tfs_deploy.validation.runner import require_pass

__all__ = [
    "deploy",
    "live_version",
    "load",
    "promote",
    "publish",
    "reconcile",
    "reject",
    "remove_label",
    "retire",
    "rollback",
    "set_label",
    "undeploy",
    "validate",
]


def deploy(
    session: GroupSession,
    staged: Path,
    model: str,
    gates: Gates,
    *,
    make_runner: RunnerFactory | None = None,
    on_step: StepListener | None = None,
    on_bytes: Progress | None = None,
    idempotency_key: str = "",
) -> Deployed:
    """Publish, load, validate and promote; a version that fails on the way is rejected and `stable` stays.

    Running it again with the same bytes after an interruption continues and ends with the same version. Raises
    LoadFailed, ValidationFailed, Inconclusive and what the steps raise.
    """
    timer = StepTimer(session, on_step)
    with timer.step("publish"):
        published = publish(session, staged, model, gates=gates, progress=on_bytes)
    version = published.version.version
    with reject_on_failure(session, model, version, reject):
        with timer.step("load"):
            _require_not_rejected(session, model, version)
            load(session, model, version)
            wait_until_available(session, model, version)
        with timer.step("validate"):
            report = require_pass(validate(session, model, version, gates))
    with timer.step("promote"):
        record = promote(session, model, version, idempotency_key=idempotency_key)
    return Deployed(published, report, record, timer.seconds)


def _require_not_rejected(session: GroupSession, model: str, version: int) -> None:
    """Raise LoadFailed for a version whose rejection was interrupted: then `deploy` rejects it to the end.

    An interrupted retirement, which takes only versions older than the stable one, is left to `retire`.
    """
    desired = desired_state.read(session.store.documents, session.group).models.get(model)
    if desired is not None and version in desired.unloading and version > desired.labels.get(STABLE, 0):
        raise LoadFailed(
            f"Version {version} of model {model!r} is already being rejected in group {session.group.name!r}.",
            "See `tfs-deploy history` for the reason, correct the model and deploy it again.",
        )


def live_version(session: GroupSession, model: str) -> int | None:
    """Return the version that the label `stable` of the desired state names."""
    return desired_state.read(session.store.documents, session.group).labels(model).get(STABLE)
