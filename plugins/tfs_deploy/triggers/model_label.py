"""Wait in the triggerer until a label answers from one version on every replica."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfs_deploy.errors import DeadlineExceeded, NotFound, Transient
from tfs_deploy.triggers.group_wait import GroupWaitTrigger, available

if TYPE_CHECKING:
    from tfs_deploy.serving.client import AsyncModelServerClient

# For one GetModelMetadata, which is answered from memory.
_RPC_SECONDS = 5.0


class ModelLabelTrigger(GroupWaitTrigger):
    """Fire when every replica answers `version_label` from one version; see `GroupWaitTrigger`.

    :param version: the version that must answer; None: any, the same on every replica.
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
        super().__init__(
            tf_serving_conn_id=tf_serving_conn_id,
            model=model,
            version=version,
            deadline=deadline,
            poll_interval=poll_interval,
        )
        self.version_label = version_label

    def kwargs(self) -> dict[str, Any]:
        """Return what the constructor took."""
        return {**super().kwargs(), "version_label": self.version_label}

    async def wait(self, clients: Mapping[str, AsyncModelServerClient]) -> dict[str, Any]:
        """Ask every replica until all agree; raise DeadlineExceeded with the last answer of each."""
        while True:
            answers = await asyncio.gather(*(self._ask(client) for client in clients.values()))
            by_target = dict(zip(clients, answers, strict=True))
            version = agreed_version(by_target, self.version)
            if version is not None:
                return available(version)
            if time.time() >= self.deadline:
                raise _timeout(self.model, self.version_label, by_target)
            await asyncio.sleep(self.poll_interval)

    async def _ask(self, client: AsyncModelServerClient) -> int | None:
        try:
            answer = await client.metadata(self.model, label=self.version_label, timeout=_RPC_SECONDS)
        except (NotFound, Transient):
            return None
        return answer.version


def agreed_version(answers: Mapping[str, int | None], wanted: int | None) -> int | None:
    """Return the version that every replica answers with, if it is the wanted one (or any is)."""
    versions = set(answers.values())
    if len(versions) != 1:
        return None
    version = versions.pop()
    return version if wanted is None or version == wanted else None


def _timeout(model: str, label: str, answers: Mapping[str, int | None]) -> DeadlineExceeded:
    listed = ", ".join(f"{target}: {version or 'none'}" for target, version in answers.items())
    return DeadlineExceeded(
        f"Label {label!r} of model {model!r} did not reach every replica by the deadline (answers: {listed}).",
        "Promote the version, or allow more time.",
    )
