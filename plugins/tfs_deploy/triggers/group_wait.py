"""Waits in the triggerer on a serving group, with the event that reports the result."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from tfs_deploy.errors import DeadlineExceeded, LoadFailed, Permanent, TFSDeployError, Unreachable
from tfs_deploy.hooks.tf_serving import TFServingHook

if TYPE_CHECKING:
    from tfs_deploy.serving.client import AsyncModelServerClient

AVAILABLE = "available"

# The first class that fits gives the status of an error.
_STATUSES: tuple[tuple[str, type[TFSDeployError]], ...] = (
    ("failed", LoadFailed),
    ("timeout", DeadlineExceeded),
    ("unreachable", Unreachable),
    ("error", Permanent),
)


class GroupWaitTrigger(BaseTrigger):
    """Fire once with ``{status, message, remedy, version}``, and what the trigger knows besides.

    `status` is ``available``, ``failed`` (a replica cannot load it), ``timeout``, ``unreachable``, or ``error`` (the
    connection is wrong). Kwargs hold the connection's id, never what is in it.

    :param deadline: seconds since the epoch; absolute, so that a restart of the triggerer does not prolong the wait.
    :param poll_interval: seconds between two polls; a wait for a version pauses longer the longer nothing changes.
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
            payload = await self._connected()
        except TFSDeployError as error:
            payload = ended_by(error, self.version)
        yield TriggerEvent(payload)  # type: ignore[no-untyped-call]

    @abstractmethod
    async def wait(self, clients: Mapping[str, AsyncModelServerClient]) -> dict[str, Any]:
        """Return the event of the version that is available; raise the error that ends the wait."""

    async def _connected(self) -> dict[str, Any]:
        clients = await TFServingHook(self.tf_serving_conn_id).aio_clients()
        try:
            return await self.wait(clients)
        finally:
            await asyncio.gather(*(client.close() for client in clients.values()), return_exceptions=True)


def available(version: int, **more: Any) -> dict[str, Any]:
    """Return the event of a version that is AVAILABLE on every replica."""
    return {"status": AVAILABLE, "message": "", "remedy": "", "version": version, **more}


def ended_by(error: TFSDeployError, version: int | None) -> dict[str, Any]:
    """Return the event of a wait that ended with `error`; any other Transient counts as unreachable."""
    status = next((name for name, kind in _STATUSES if isinstance(error, kind)), "unreachable")
    return {"status": status, "message": error.cause, "remedy": error.remedy, "version": version}


def require_available(event: Mapping[str, Any]) -> int:
    """Return the version that is available, or raise the error that ended the wait of the trigger."""
    status = event.get("status")
    if status == AVAILABLE:
        return int(event["version"])
    kind = dict(_STATUSES).get(str(status))
    if kind is None:
        raise Unreachable(f"The trigger sent an unknown event: {dict(event)!r}.", "Run the task again.")
    raise kind(str(event.get("message", "")), str(event.get("remedy", "")))
