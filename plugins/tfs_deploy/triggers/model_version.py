"""Wait in the triggerer until a version is AVAILABLE on every replica; no worker, no TensorFlow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from tfs_deploy.errors import TFSDeployError
from tfs_deploy.hooks.tf_serving import TFServingHook
from tfs_deploy.triggers.event import available, ended_by


class ModelVersionTrigger(BaseTrigger):
    """Fire once with ``{status, message, remedy, version}``.

    `status` is ``available``, ``failed`` (a replica cannot load it), ``timeout``, ``unreachable``, or ``error`` (the
    connection is wrong). Kwargs hold the connection's id, never what is in it.

    :param deadline: seconds since the epoch; absolute, so that a triggerer that restarts does not wait anew.
    :param discovery_seconds: how long until every replica lists the version.
    :param poll_interval: seconds between two looks.
    """

    def __init__(
        self,
        *,
        tf_serving_conn_id: str,
        model: str,
        version: int,
        deadline: float,
        discovery_seconds: float = 60.0,
        poll_interval: float = 1.0,
    ) -> None:
        super().__init__()
        self.tf_serving_conn_id = tf_serving_conn_id
        self.model = model
        self.version = version
        self.deadline = deadline
        self.discovery_seconds = discovery_seconds
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the import path and the kwargs that make this trigger again."""
        return (
            "tfs_deploy.triggers.model_version.ModelVersionTrigger",
            {
                "tf_serving_conn_id": self.tf_serving_conn_id,
                "model": self.model,
                "version": self.version,
                "deadline": self.deadline,
                "discovery_seconds": self.discovery_seconds,
                "poll_interval": self.poll_interval,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event."""
        try:
            await self._wait()
        except TFSDeployError as error:
            yield TriggerEvent(ended_by(error, self.version))
        else:
            yield TriggerEvent(available(self.version))

    async def _wait(self) -> None:
        from tfs_deploy.clock import SystemClock
        from tfs_deploy.serving.waiting import WaitLimits, wait_until_available_aio

        remaining = max(0.0, self.deadline - time.time())
        limits = WaitLimits(
            load=remaining, discovery=min(self.discovery_seconds, remaining), interval=self.poll_interval
        )
        clients = await TFServingHook(self.tf_serving_conn_id).aio_clients()
        try:
            await wait_until_available_aio(clients, self.model, self.version, limits=limits, clock=SystemClock())
        finally:
            await asyncio.gather(*(client.close() for client in clients.values()), return_exceptions=True)
