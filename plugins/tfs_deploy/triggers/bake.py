"""Watch a canary in the triggerer: it reads the metrics of gateways, and asks no model server and no store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from tfs_deploy.jsonable import from_builtins, to_builtins

if TYPE_CHECKING:
    from tfs_deploy.deployment.bake_decision import BakeDecision

logger = logging.getLogger(__name__)


class BakeTrigger(BaseTrigger):
    """Fire once with the decision on a canary: at the end of the bake, or when the canary has failed.

    :param bake: a `Bake` as a dict; it holds its end, so that a restart of the triggerer does not prolong it.
    :param gateway_conn_id: the connection whose password is the gateways' API key; empty: they need none.
    :param interval: seconds between two polls.
    """

    def __init__(self, *, bake: Mapping[str, Any], gateway_conn_id: str, interval: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bake = dict(bake)
        self.gateway_conn_id = gateway_conn_id
        self.interval = interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the import path and the kwargs that make this trigger again."""
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", {
            "bake": self.bake,
            "gateway_conn_id": self.gateway_conn_id,
            "interval": self.interval,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll, and yield the one event."""
        yield TriggerEvent(to_builtins(await self._watch()))  # type: ignore[no-untyped-call]

    async def _watch(self) -> BakeDecision:
        from tfs_deploy.deployment.bake_decision import BakeDecision
        from tfs_deploy.deployment.gateway_metrics import http_fetch
        from tfs_deploy.deployment.steps.bake import Bake, poll
        from tfs_deploy.errors import TFSDeployError
        from tfs_deploy.validation.report import Verdict

        try:
            bake, fetch = from_builtins(Bake, self.bake), http_fetch(await self._api_key())
            while True:
                await asyncio.sleep(max(0.0, min(self.interval, bake.until - time.time())))
                decision = await asyncio.to_thread(poll, bake, fetch)
                if decision.verdict is Verdict.FAIL or bake.until <= time.time():
                    return decision
        except (TFSDeployError, AirflowException) as error:
            logger.exception("The bake cannot be watched")
            return BakeDecision(Verdict.INCONCLUSIVE, f"The triggerer could not watch the canary: {error}")

    async def _api_key(self) -> str:
        if not self.gateway_conn_id:
            return ""
        connection = await BaseHook.aget_connection(self.gateway_conn_id)
        return connection.password or ""
