"""Step load: every replica loads a version beside what it serves, and the task waits until it is AVAILABLE."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import conf

from tfs_deploy.operators.base import TFServingOperator, seconds_of, translate_errors, version_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tfs_deploy.deployment.agent_wait import WaitProgress
    from tfs_deploy.deployment.session import GroupSession
    from tfs_deploy.serving.waiting import WaitLimits

# The trigger ends the wait with an error of its own; Airflow's timeout is for a triggerer that died.
_TRIGGERER_MARGIN_SECONDS = 120.0


class LoadModelVersionOperator(TFServingOperator):
    """Load a version on every replica; labels stay where they are. Running it again continues the wait.

    :param version: a number, a template, or what `PublishModelOperator` returned.
    :param wait_seconds: how long the load may take, all in all.
    :param discovery_seconds: how long until every replica lists the version (one poll of its disk, or a download).
    :param reject_on_failure: withdraw a version that a replica cannot load.
    :param deferrable: wait in the triggerer, for sync agents too; no worker slot is held.

    Returns ``{model, version}``.
    """

    template_fields = (*TFServingOperator.template_fields, "version", "wait_seconds", "discovery_seconds")

    def __init__(
        self,
        *,
        version: int | str | Mapping[str, Any],
        wait_seconds: float | str = 300.0,
        discovery_seconds: float | str = 60.0,
        reject_on_failure: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.wait_seconds = wait_seconds
        self.discovery_seconds = discovery_seconds
        self.reject_on_failure = reject_on_failure
        self.deferrable = deferrable

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask for the load, then wait here or in the triggerer."""
        return self._load(context, None)

    def execute_poll(self, context: Context, event: Mapping[str, Any], **progress: Any) -> dict[str, Any]:
        """Poll the sync agents after the trigger fired; the trigger's event decides nothing."""
        from tfs_deploy.deployment.agent_wait import WaitProgress

        return self._load(context, WaitProgress(**progress))

    def _load(self, context: Context, progress: WaitProgress | None) -> dict[str, Any]:
        from tfs_deploy.deployment.modes import steps_of
        from tfs_deploy.deployment.steps.load import wait_until_available

        with translate_errors():
            version, limits = version_of(self.version, self.model), self._limits()
        with self.step(context, wait=limits) as session, self._rejecting(session, version):
            if self.deferrable:
                self._wait_for_agents(session, version, progress)
            steps_of(session).load(session, self.model, version)
            if not self.deferrable:
                wait_until_available(session, self.model, version)
        if self.deferrable:
            self._defer(version, limits)
        return {"model": self.model, "version": version}

    def _wait_for_agents(self, session: GroupSession, version: int, progress: WaitProgress | None) -> None:
        """Defer this task, without a worker slot, as long as an agent is downloading the version."""
        from tfs_deploy.deployment.sync_requests import poll_agents
        from tfs_deploy.triggers.sync_agents import SyncAgentsTrigger

        session.store.manifest(self.model, version)
        progress = poll_agents(session, self.model, version, progress=progress)
        if progress is not None:
            self.defer(
                trigger=SyncAgentsTrigger.on_session(
                    session, self.model, version, progress, tf_serving_conn_id=self.tf_serving_conn_id
                ),
                method_name="execute_poll",
                kwargs=asdict(progress),
                timeout=timedelta(seconds=session.wait.load + _TRIGGERER_MARGIN_SECONDS),
            )

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Finish with the event of the trigger; a version that a replica could not load is rejected."""
        from tfs_deploy.deployment.steps.load import finish_load
        from tfs_deploy.triggers.group_wait import require_available

        with translate_errors():
            version = version_of(self.version, self.model)
        with self.step(context) as session, self._rejecting(session, version):
            require_available(event)
            times = {target: datetime.fromisoformat(at) for target, at in event.get("available_at", {}).items()}
            finish_load(session, self.model, version, times)
        return {"model": self.model, "version": version}

    def _rejecting(self, session: GroupSession, version: int) -> AbstractContextManager[None]:
        """Return a context that rejects the version if the block raises LoadFailed and this task may reject."""
        from tfs_deploy.deployment.modes import reject_on_failure, steps_of

        if not self.reject_on_failure:
            return nullcontext()
        return reject_on_failure(session, self.model, version, steps_of(session).reject)

    def _limits(self) -> WaitLimits:
        from tfs_deploy.serving.waiting import WaitLimits

        return WaitLimits(
            load=seconds_of(self.wait_seconds, "wait_seconds"),
            discovery=seconds_of(self.discovery_seconds, "discovery_seconds"),
        )

    def _defer(self, version: int, limits: WaitLimits) -> NoReturn:
        from tfs_deploy.triggers.model_version import ModelVersionTrigger

        self.defer(
            trigger=ModelVersionTrigger(
                tf_serving_conn_id=self.tf_serving_conn_id,
                model=self.model,
                version=version,
                deadline=time.time() + limits.load,
                discovery_seconds=limits.discovery,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=limits.load + _TRIGGERER_MARGIN_SECONDS),
        )
