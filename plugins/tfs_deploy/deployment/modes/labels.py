"""The whole way of one version, for callers that are not Airflow: publish, load, wait, validate, promote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tfs_deploy.deployment.modes import latest
from tfs_deploy.deployment.records import DeploymentRecord
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.load import load, wait_until_available
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.publish import publish
from tfs_deploy.deployment.steps.reject import reject
from tfs_deploy.deployment.steps.validate import validate
from tfs_deploy.errors import LoadFailed
from tfs_deploy.serving.group import Mode
from tfs_deploy.serving.runner import ModelServerRunner
from tfs_deploy.store.protocol import Published
from tfs_deploy.validation.config import Gates
from tfs_deploy.validation.report import ValidationReport, Verdict
from tfs_deploy.validation.runner import require_pass


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a deploy did: the version, what the gates found, the record of the promotion, seconds per step."""

    published: Published
    report: ValidationReport
    record: DeploymentRecord
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Steps:
    """Tell a listener which step begins, and keep how long each took."""

    session: GroupSession
    listener: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the block as `name`."""
        self.listener(name)
        started = self.session.clock.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.session.clock.monotonic() - started, 3)


def deploy(
    session: GroupSession,
    staged: Path,
    model: str,
    gates: Gates,
    *,
    runner: ModelServerRunner,
    on_step: Callable[[str], None] = lambda step: None,
    on_bytes: Callable[[int], None] | None = None,
    request: str = "",
) -> Deployed:
    """Take a staged SavedModel to `stable`; a version that fails on the way is rejected and `stable` stays.

    Running it again with the same bytes after an interruption continues and ends with the same version; `request` is
    that of `promote`. Raises
    LoadFailed, ValidationFailed, Inconclusive and what the steps raise.
    """
    steps = Steps(session, on_step)
    if session.group.mode is Mode.LATEST:
        published, report, done = latest.deploy_latest(session, staged, model, gates, runner=runner, steps=steps.step)
        return Deployed(published, report, done, steps.seconds)
    with steps.step("publish"):
        published = publish(session, staged, model, gates=gates, progress=on_bytes)
    version = published.version.version
    with steps.step("load"):
        load_or_reject(session, model, version)
    with steps.step("validate"):
        report = validate_or_reject(session, model, version, gates)
    with steps.step("promote"):
        done = promote(session, model, version, request=request)
    return Deployed(published, report, done, steps.seconds)


def load_or_reject(session: GroupSession, model: str, version: int) -> None:
    """Load and wait; reject the version when a replica, or what brings it there, says that it cannot be loaded."""
    try:
        load(session, model, version)
        wait_until_available(session, model, version)
    except LoadFailed as error:
        reject(session, model, version, reason=error.cause)
        raise


def validate_or_reject(session: GroupSession, model: str, version: int, gates: Gates) -> ValidationReport:
    """Validate and return a passing report; reject the version when a gate failed (not when it is inconclusive)."""
    report = validate(session, model, version, gates)
    if report.verdict is Verdict.FAIL:
        reject(session, model, version, reason=report.reason())
    return require_pass(report)
