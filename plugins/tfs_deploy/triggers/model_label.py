"""Wait in the triggerer until a label answers from one version on every replica."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from tfs_deploy.errors import DeadlineExceeded, NotFound, TFSDeployError, Transient
from tfs_deploy.hooks.tf_serving import TFServingHook
from tfs_deploy.triggers.event import available, ended_by

# For one GetModelMetadata, which is answered from memory.
RPC_SECONDS = 5.0


class ModelLabelTrigger(BaseTrigger):
    """Fire once with ``{status, message, remedy, version}``; `version` is the one that answers the label.

    :param version: wait until the label answers from this version; None: from any, the same on every replica.
    :param deadline: seconds since the epoch; absolute, so that a triggerer that restarts does not wait anew.
    :param poll_interval: seconds between two looks.
    """

    def __init__(
        self,
        *,
        tf_serving_conn_id: str,
        model: str,
        version_label: str,
        deadline: float,
        version: int | None = None,
        poll_interval: float = 1.0,
    ) -> None:
        super().__init__()
        self.tf_serving_conn_id = tf_serving_conn_id
        self.model = model
        self.version_label = version_label
        self.deadline = deadline
        self.version = version
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the import path and the kwargs that make this trigger again."""
        return (
            "tfs_deploy.triggers.model_label.ModelLabelTrigger",
            {
                "tf_serving_conn_id": self.tf_serving_conn_id,
                "model": self.model,
                "version_label": self.version_label,
                "deadline": self.deadline,
                "version": self.version,
                "poll_interval": self.poll_interval,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event."""
        try:
            version = await self._wait()
        except TFSDeployError as error:
            yield TriggerEvent(ended_by(error, self.version))
        else:
            yield TriggerEvent(available(version))

    async def _wait(self) -> int:
        clients = await TFServingHook(self.tf_serving_conn_id).aio_clients()
        try:
            while True:
                answers = await asyncio.gather(*(self._ask(client) for client in clients.values()))
                version = agreed(dict(zip(clients, answers, strict=True)), self.version)
                if version is not None:
                    return version
                if time.time() >= self.deadline:
                    raise not_yet(self.model, self.version_label, dict(zip(clients, answers, strict=True)))
                await asyncio.sleep(self.poll_interval)
        finally:
            await asyncio.gather(*(client.close() for client in clients.values()), return_exceptions=True)

    async def _ask(self, client: Any) -> int | None:
        try:
            answer = await client.metadata(self.model, label=self.version_label, timeout=RPC_SECONDS)
        except (NotFound, Transient):
            return None
        return int(answer.version)


def agreed(answers: dict[str, int | None], wanted: int | None) -> int | None:
    """Return the version that every replica answers with, if it is the wanted one (or any is)."""
    found = set(answers.values())
    if len(found) != 1 or None in found:
        return None
    version = found.pop()
    return version if wanted is None or version == wanted else None


def not_yet(model: str, label: str, answers: dict[str, int | None]) -> DeadlineExceeded:
    """Return the error that tells what each replica answered in the end."""
    told = ", ".join(f"{target}: {version or 'none'}" for target, version in answers.items())
    return DeadlineExceeded(
        f"Label {label!r} of model {model!r} was not answered as waited for by the deadline ({told}).",
        "Promote the version, or allow more time.",
    )
