"""One model as the web side sees it: everything that a request for it passes through."""

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

# What a person puts in, by the built-in processor; of any other one it is JSON.
_ACCEPTS = {"images": "image", "text": "text"}


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """An endpoint called `name`."""

    name: str
    config: ModelConfig
    upstream: Upstream
    traffic: Traffic
    processors: ModelProcessors
    capture: Capture | None = None

    @property
    def accepts(self) -> str:
        """Return what an item is to a person: ``image``, ``text`` or ``json``."""
        return _ACCEPTS.get(self.config.processor.name, "json")

    @property
    def answers(self) -> ProcessorConfig:
        """Return what makes the answer."""
        return self.config.postprocessor or self.config.processor

    def description(self) -> dict[str, Any]:
        """Return what a client may know of the model."""
        found = self.upstream.signature()
        inputs = {} if found is None else {alias: str(spec) for alias, spec in found[1].inputs.items()}
        return {
            "name": self.name,
            "description": self.config.description,
            "accepts": self.accepts,
            "label": self.config.label or None,
            "labels": [label for label in dict.fromkeys((self.config.label, *self.config.labels)) if label],
            "version": None if found is None else found[0],
            "inputs": inputs,
        }


_NO_STORE = {"Cache-Control": "no-store"}


class Health:
    """`/healthz` and `/readyz`.

    Ready means: every model has answered once since the start, and at least one answers now. One model that is away
    later must not take the others' gateway out of the load balancer; with one model, ready means that it answers.
    """

    def __init__(self, models: Sequence[Endpoint]) -> None:
        self._models = tuple(models)
        self._ready_once: set[str] = set()
        self.draining = False

    async def live(self, request: Request, arguments: Mapping[str, str]) -> Reply:
        """Answer as long as the event loop runs."""
        return json_reply({"status": "ok"}, headers=_NO_STORE)

    async def ready(self, request: Request, arguments: Mapping[str, str]) -> Reply:
        """Answer 200 if ready; raise Problem (503) otherwise. Names are left out: anybody may ask."""
        if self.draining:
            raise unavailable("This gateway is shutting down.")
        answers = await asyncio.gather(*(endpoint.upstream.ready() for endpoint in self._models))
        self._ready_once |= {endpoint.name for endpoint, answer in zip(self._models, answers, strict=True) if answer}
        total = len(self._models)
        if len(self._ready_once) < total:
            raise unavailable(f"{total - len(self._ready_once)} of {total} models have no version that answers yet.")
        if not any(answers):
            raise unavailable("No model has a version that answers at the moment.")
        return json_reply({"status": "ready", "models": total, "answering": sum(answers)}, headers=_NO_STORE)
