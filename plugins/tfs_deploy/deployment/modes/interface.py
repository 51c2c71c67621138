"""What every mode offers: the same steps with the same signatures, and the values that they return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from tfs_deploy.deployment.records import DeploymentRecord
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.reconcile import Reconciliation
from tfs_deploy.deployment.steps.retire import ABANDONED_AFTER, DEFAULT_KEEP, Retirement
from tfs_deploy.deployment.steps.undeploy import Undeployment
from tfs_deploy.serving.runner import ModelServerRunner
from tfs_deploy.store.protocol import Progress, Published
from tfs_deploy.validation.config import Gates
from tfs_deploy.validation.report import ValidationReport

StepListener = Callable[[str], None]
# Called only by a mode that validates before it publishes.
RunnerFactory = Callable[[], ModelServerRunner]


@dataclass(frozen=True, slots=True)
class Deployed:
    """The version that a deploy published, the gates' report, the record of the promotion, and seconds per step."""

    published: Published
    report: ValidationReport
    record: DeploymentRecord
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class StepTimer:
    """Report each step of a deploy to a listener when it begins, and measure how long it takes."""

    session: GroupSession
    listener: StepListener | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the block as `name`."""
        if self.listener is not None:
            self.listener(name)
        started = self.session.clock.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.session.clock.monotonic() - started, 3)


class ModeSteps(Protocol):
    """The steps of one mode; the modules `labels` and `latest` implement it as plain functions.

    A step that a mode does not have raises Refused. `idempotency_key` names the caller's request (an Airflow task of a
    run), so that its retry moves nothing a second time; it is empty where the caller has no retries.
    """

    def deploy(
        self,
        session: GroupSession,
        staged: Path,
        model: str,
        gates: Gates,
        *,
        make_runner: RunnerFactory,
        on_step: StepListener | None = None,
        on_bytes: Progress | None = None,
        idempotency_key: str = "",
    ) -> Deployed:
        """Take a staged SavedModel into production; a version that fails on the way is rejected."""

    def publish(
        self,
        session: GroupSession,
        staged: Path,
        model: str,
        *,
        gates: Gates | None = None,
        progress: Progress | None = None,
    ) -> Published:
        """Put the bytes into the store as a version that answers no traffic yet."""

    def load(self, session: GroupSession, model: str, version: int) -> None:
        """Ask every replica to load the version; return before it is loaded."""

    def validate(self, session: GroupSession, model: str, version: int, gates: Gates) -> ValidationReport:
        """Run the gates on every replica and return the report, whatever its verdict."""

    def promote(
        self,
        session: GroupSession,
        model: str,
        version: int,
        *,
        reason: str = "",
        idempotency_key: str = "",
        quorum: int | None = None,
    ) -> DeploymentRecord:
        """Let a version that passed its gates answer production traffic."""

    def set_label(
        self, session: GroupSession, model: str, label: str, version: int, *, reason: str = ""
    ) -> DeploymentRecord:
        """Move a label besides `stable` and `previous` to a version that passed its gates."""

    def remove_label(
        self, session: GroupSession, model: str, label: str, *, reason: str = ""
    ) -> DeploymentRecord | None:
        """Remove such a label; None where it is not set."""

    def rollback(
        self, session: GroupSession, model: str, *, to: int | None = None, reason: str = "", idempotency_key: str = ""
    ) -> DeploymentRecord:
        """Go back to the version that was live before, or to version `to`."""

    def reject(self, session: GroupSession, model: str, version: int, *, reason: str) -> DeploymentRecord:
        """Take the version out of every replica and of the store's sight; its number is never used again."""

    def retire(
        self,
        session: GroupSession,
        model: str,
        *,
        keep: int = DEFAULT_KEEP,
        dry_run: bool = False,
        abandoned_after: timedelta = ABANDONED_AFTER,
    ) -> Retirement:
        """Delete old versions that nothing needs."""

    def reconcile(self, session: GroupSession) -> Reconciliation:
        """Bring replicas that differ to what the group should serve."""

    def undeploy(
        self,
        session: GroupSession,
        model: str,
        version: int | None = None,
        *,
        reason: str = "",
        withdraw: bool = False,
    ) -> Undeployment:
        """Stop serving a model, or one version of it."""

    def live_version(self, session: GroupSession, model: str) -> int | None:
        """Return the version that should answer production traffic now, None if there is none."""
