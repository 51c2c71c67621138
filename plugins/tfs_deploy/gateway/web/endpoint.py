"""One model as the web side sees it: everything that a request for it passes through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfs_deploy.gateway.capture.writer import Capture
from tfs_deploy.gateway.config import ModelConfig, ProcessorConfig
from tfs_deploy.gateway.processors.model_processors import ModelProcessors
from tfs_deploy.gateway.traffic import Traffic
from tfs_deploy.gateway.upstream.model import Upstream

# What a person puts in, by the built-in processor; of any other one it is JSON.
_ACCEPTS = {"images": "image", "text": "text"}


@dataclass(frozen=True, slots=True, eq=False)
class Served:
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
