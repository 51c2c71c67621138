"""Is the gateway alive, and is it ready: does the label of its models mean a version that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from tfs_deploy.gateway.problem import unavailable
from tfs_deploy.gateway.web.endpoint import Served
from tfs_deploy.gateway.web.message import Reply, Request, json_reply

_NO_STORE = {"Cache-Control": "no-store"}


class Health:
    """`/healthz` and `/readyz`.

    Ready means: every model has answered once since the start, and at least one answers now. One model that is away
    later must not take the others' gateway out of the load balancer; with one model, ready means that it answers.
    """

    def __init__(self, models: Sequence[Served]) -> None:
        self._models = tuple(models)
        self._seen: set[str] = set()
        self.draining = False

    async def alive(self, request: Request, arguments: Mapping[str, str]) -> Reply:
        """Answer as long as the event loop runs."""
        return json_reply({"status": "ok"}, headers=_NO_STORE)

    async def ready(self, request: Request, arguments: Mapping[str, str]) -> Reply:
        """Answer 200 if ready; raise Problem (503) otherwise. Names are left out: anybody may ask."""
        if self.draining:
            raise unavailable("This gateway is shutting down.")
        answers = await asyncio.gather(*(served.upstream.ready() for served in self._models))
        self._seen |= {served.name for served, answer in zip(self._models, answers, strict=True) if answer}
        total = len(self._models)
        if len(self._seen) < total:
            raise unavailable(f"{total - len(self._seen)} of {total} models have no version that answers yet.")
        if not any(answers):
            raise unavailable("No model has a version that answers at the moment.")
        return json_reply({"status": "ready", "models": total, "answering": sum(answers)}, headers=_NO_STORE)
