"""Wait in the triggerer until a version is AVAILABLE on every replica; no worker, no TensorFlow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfs_deploy.triggers.group_wait import GroupWaitTrigger, available

if TYPE_CHECKING:
    from tfs_deploy.serving.client import AsyncModelServerClient


# Airflow takes seconds to resume a task, and one event loop polls for every waiting task.
_POLL_SECONDS = 0.25


class ModelVersionTrigger(GroupWaitTrigger):
    """Fire when `version` is AVAILABLE on every replica, or cannot become so; see `GroupWaitTrigger`.

    :param discovery_seconds: how long until every replica lists the version.
    :param own_load: the waiting task asked for the load itself, so a replica that unloads the version ends the wait.
    """

    version: int

    def __init__(
        self,
        *,
        tf_serving_conn_id: str,
        model: str,
        version: int,
        deadline: float,
        discovery_seconds: float = 60.0,
        poll_interval: float = _POLL_SECONDS,
        own_load: bool = True,
    ) -> None:
        super().__init__(
            tf_serving_conn_id=tf_serving_conn_id,
            model=model,
            version=version,
            deadline=deadline,
            poll_interval=poll_interval,
        )
        self.discovery_seconds = discovery_seconds
        self.own_load = own_load

    def kwargs(self) -> dict[str, Any]:
        """Return what the constructor took."""
        return {**super().kwargs(), "discovery_seconds": self.discovery_seconds, "own_load": self.own_load}

    async def wait(self, clients: Mapping[str, AsyncModelServerClient]) -> dict[str, Any]:
        """Wait as long as the deadline allows; the event says when each replica was first AVAILABLE."""
        from tfs_deploy.clock import SystemClock
        from tfs_deploy.serving.waiting import WaitLimits, to_wall_clock, wait_until_available_aio

        clock = SystemClock()
        remaining = max(0.0, self.deadline - time.time())
        discovery = min(self.discovery_seconds, remaining)
        limits = WaitLimits(load=remaining, discovery=discovery, interval=self.poll_interval)
        moments = await wait_until_available_aio(
            clients, self.model, self.version, limits=limits, clock=clock, own_load=self.own_load
        )
        times = {target: at.isoformat() for target, at in to_wall_clock(moments, clock).items()}
        return available(self.version, available_at=times)
