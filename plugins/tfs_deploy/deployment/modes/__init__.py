"""The steps of a deploy, for each mode of serving groups. This is the only module that asks a group for its mode."""

from __future__ import annotations

from tfs_deploy.deployment.modes import labels, latest
from tfs_deploy.deployment.modes.interface import Deployed, ModeSteps
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.reject import reject_on_failure
from tfs_deploy.serving.group import Mode

__all__ = ["Deployed", "ModeSteps", "reject_on_failure", "steps_of"]

_STEPS: dict[Mode, ModeSteps] = {Mode.LABELS: labels, Mode.LATEST: latest}


def steps_of(session: GroupSession) -> ModeSteps:
    """Return the steps as the mode of the session's group carries them out."""
    return _STEPS[session.group.mode]
