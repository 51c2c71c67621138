"""Wait in the triggerer until the sync agents of a group hold a version: it reads their reports in the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from tfs_deploy.errors import TFSDeployError, Unreachable
from tfs_deploy.hooks.tf_serving import TFServingHook

if TYPE_CHECKING:
    from tfs_deploy.deployment.agent_wait import WaitProgress
    from tfs_deploy.deployment.session import GroupSession

logger = logging.getLogger(__name__)

_RETRY_GROWTH = 1.5
_LONGEST_RETRY_SECONDS = 15.0


class SyncAgentsTrigger(BaseTrigger):
    """Fire once when a worker should poll the agents again: they hold the version, or this trigger cannot tell.

    The worker decides. So a triggerer that cannot read the store (a file system that only the workers mount, a
    package that is missing) delays the load by a pause that grows, 1 s, 1.5 s, up to 15 s, and does not end it.

    :param since: when the wait began, seconds since the epoch.
    :param report_tags: the tags of the reports at the worker's last poll; see `WaitProgress`.
    :param polls: how many times a worker has polled, which makes the pause.
    :param load_seconds: the limit of the whole wait.
    :param discovery_seconds: how long until a first agent reports.
    """

    def __init__(
        self,
        *,
        tf_serving_conn_id: str,
        model: str,
        version: int,
        since: float,
        report_tags: Mapping[str, str],
        polls: int,
        load_seconds: float,
        discovery_seconds: float,
        store: str,
        group: str,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tf_serving_conn_id = tf_serving_conn_id
        self.model = model
        self.version = version
        self.since = since
        self.report_tags = dict(report_tags)
        self.polls = polls
        self.load_seconds = load_seconds
        self.discovery_seconds = discovery_seconds
        self.store = store
        self.group = group

    @classmethod
    def on_session(
        cls, session: GroupSession, model: str, version: int, progress: WaitProgress, *, tf_serving_conn_id: str
    ) -> SyncAgentsTrigger:
        """Return the trigger that continues the wait of a worker's session, which that connection opened."""
        return cls(
            tf_serving_conn_id=tf_serving_conn_id,
            store=session.store.uri,
            group=session.group.name,
            model=model,
            version=version,
            load_seconds=session.wait.load,
            discovery_seconds=session.wait.discovery,
            **asdict(progress),
        )

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the import path and the kwargs that make this trigger again."""
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", {
            "tf_serving_conn_id": self.tf_serving_conn_id,
            "store": self.store,
            "group": self.group,
            "model": self.model,
            "version": self.version,
            "since": self.since,
            "report_tags": self.report_tags,
            "polls": self.polls,
            "load_seconds": self.load_seconds,
            "discovery_seconds": self.discovery_seconds,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll the reports until the agents hold the version, and yield the one event."""
        try:
            await self._wait()
            payload = {"status": "held", "message": ""}
        except (TFSDeployError, AirflowException) as error:
            pause = retry_seconds(self.polls)
            logger.info("A worker polls the sync agents in %.1f s, because: %s", pause, error)
            await asyncio.sleep(pause)
            payload = {"status": "poll", "message": str(error)}
        yield TriggerEvent(payload)  # type: ignore[no-untyped-call]

    async def _wait(self) -> None:
        from tfs_deploy.deployment.agent_wait import AgentWait, WaitProgress
        from tfs_deploy.serving.waiting import WaitLimits

        limits = WaitLimits(load=self.load_seconds, discovery=self.discovery_seconds)
        hook = TFServingHook(self.tf_serving_conn_id)
        session = await hook.aio_store_session(store=self.store, group=self.group, wait=limits)
        await asyncio.to_thread(_require_same_store, session, self.model, self.version)
        wait = AgentWait(
            session, self.model, self.version, progress=WaitProgress(self.since, self.report_tags, self.polls)
        )
        while not await asyncio.to_thread(wait.poll):
            await asyncio.sleep(wait.pause())


def retry_seconds(polls: int) -> float:
    """Return the pause before a worker polls again, after `polls` polls: 1, 1.5, 2.25 and so on, at most 15."""
    return float(min(_RETRY_GROWTH ** min(polls - 1, 10), _LONGEST_RETRY_SECONDS))


def _require_same_store(session: GroupSession, model: str, version: int) -> None:
    """Raise Unreachable unless the request is here that a worker wrote before it deferred the task."""
    from tfs_deploy.deployment.sync_requests import is_requested

    if not is_requested(session, model, version):
        raise Unreachable(
            f"The triggerer does not see the request for version {version} of model {model!r} in {session.store.uri}.",
            "Let the triggerer read the same store as the workers.",
        )
