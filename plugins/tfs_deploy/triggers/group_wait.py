"""A wait on a serving group in the triggerer: connect, wait, tell what came of it."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from tfs_deploy.errors import TFSDeployError
from tfs_deploy.hooks.tf_serving import TFServingHook
from tfs_deploy.triggers.event import available, ended_by

if TYPE_CHECKING:
    from tfs_deploy.serving.client import AsyncModelServerClient


class GroupWaitTrigger(BaseTrigger):
    """Fire once with ``{status, message, remedy, version}``.

    `status` is ``available``, ``failed`` (a replica cannot load it), ``timeout``, ``unreachable``, or ``error`` (the
    connection is wrong). Kwargs hold the connection's id, never what is in it.

    :param deadline: seconds since the epoch; absolute, so that a triggerer that restarts does not wait anew.
    :param poll_interval: seconds between two looks.
    """

    def __init__(
        self, *, tf_serving_conn_id: str, model: str, version: int | None, deadline: float, poll_interval: float
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tf_serving_conn_id = tf_serving_conn_id
        self.model = model
        self.version = version
        self.deadline = deadline
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the import path and the kwargs that make this trigger again."""
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", self.kwargs()

    def kwargs(self) -> dict[str, Any]:
        """Return what the constructor took."""
        return {
            "tf_serving_conn_id": self.tf_serving_conn_id,
            "model": self.model,
            "version": self.version,
            "deadline": self.deadline,
            "poll_interval": self.poll_interval,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event."""
        try:
            payload = available(await self._connected())
        except TFSDeployError as error:
            payload = ended_by(error, self.version)
        yield TriggerEvent(payload)  # type: ignore[no-untyped-call]

    @abstractmethod
    async def wait(self, clients: Mapping[str, AsyncModelServerClient]) -> int:
        """Return the version that is there; raise what ended the wait."""

    async def _connected(self) -> int:
        clients = await TFServingHook(self.tf_serving_conn_id).aio_clients()
        try:
            return await self.wait(clients)
        finally:
            await asyncio.gather(*(client.close() for client in clients.values()), return_exceptions=True)
