"""The endpoint of one model, and the health of all endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfs_deploy.gateway.capture.writer import Capture
from tfs_deploy.gateway.config import ModelConfig, ProcessorConfig
from tfs_deploy.gateway.problem import unavailable
from tfs_deploy.gateway.processors.model_processors import ModelProcessors
from tfs_deploy.gateway.upstream.model import Traffic, Upstream
from tfs_deploy.gateway.web.message import Reply, Request, json_reply

# The kind of item by built-in processor; it is JSON for any other processor.
_ACCEPTS = {"images": "image", "text": "text"}


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """The endpoint ``/v1/models/NAME``: configuration, processors, traffic to the model servers, captures."""

    name: str
    config: ModelConfig
    upstream: Upstream
    traffic: Traffic
    processors: ModelProcessors
    capture: Capture | None = None

    @property
    def accepts(self) -> str:
        """Return the kind of item: ``image``, ``text`` or ``json``."""
        return _ACCEPTS.get(self.config.processor.name, "json")

    @property
    def answers(self) -> ProcessorConfig:
        """Return the processor that makes the results."""
        return self.config.postprocessor or self.config.processor

    def description(self) -> dict[str, Any]:
        """Return the public description of the model."""
        live = self.upstream.signature()
        inputs = {} if live is None else {alias: str(spec) for alias, spec in live[1].inputs.items()}
        return {
            "name": self.name,
            "description": self.config.description,
            "accepts": self.accepts,
            "label": self.config.label or None,
            "labels": [label for label in dict.fromkeys((self.config.label, *self.config.labels)) if label],
            "version": None if live is None else live[0],
            "inputs": inputs,
        }


_NO_STORE = {"Cache-Control": "no-store"}


class Health:
    """`/healthz` and `/readyz`.

    The gateway is ready when every model has been available once since the start and at least one is available now.
    A model that becomes unavailable later must not take the gateway out of the load balancer for the other models.
    """

    def __init__(self, models: Sequence[Endpoint]) -> None:
        self._models = tuple(models)
        self._ready_once: set[str] = set()
        self.draining = False

    async def live(self, request: Request, arguments: Mapping[str, str]) -> Reply:
        """Reply 200 as long as the event loop runs."""
        return json_reply({"status": "ok"}, headers=_NO_STORE)

    async def ready(self, request: Request, arguments: Mapping[str, str]) -> Reply:
        """Reply 200 when ready; raise Problem (503) otherwise. Model names are left out: this path needs no key."""
        if self.draining:
            raise unavailable("This gateway is shutting down; use another one.")
        answers = await asyncio.gather(*(endpoint.upstream.ready() for endpoint in self._models))
        self._ready_once |= {endpoint.name for endpoint, answer in zip(self._models, answers, strict=True) if answer}
        total = len(self._models)
        if len(self._ready_once) < total:
            raise unavailable(
                f"{total - len(self._ready_once)} of {total} models are not available yet; try again later."
            )
        if not any(answers):
            raise unavailable("No model is available at the moment; try again later.")
        return json_reply({"status": "ready", "models": total, "answering": sum(answers)}, headers=_NO_STORE)
