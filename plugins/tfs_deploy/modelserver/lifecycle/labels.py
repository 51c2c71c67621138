"""Version labels: who may point where, and what a label means now (contract 5.4)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tfs_deploy.modelserver.lifecycle.monitor import Monitor, ServableId, State
from tfs_deploy.modelserver.status import Code, StatusError, failed_precondition, invalid_argument

LabelMap = dict[str, dict[str, int]]


@dataclass(slots=True)
class Labels:
    """The label map that is in force; it is replaced as a whole."""

    monitor: Monitor
    allow_unavailable: bool
    _map: LabelMap | None = None  # until the first config that lists models

    def replace(self, models: Iterable[Any]) -> None:
        """Take over the labels of a config; raise FAILED_PRECONDITION and change nothing if one may not point there."""
        replacement: LabelMap = {}
        for model in models:
            for label, version in model.version_labels.items():
                if not self._allowed(model.name, label, version):
                    raise failed_precondition(
                        f"Request to assign label to version {version} of model {model.name}, "
                        "which is not currently available for inference"
                    )
                replacement.setdefault(model.name, {})[label] = version
        self._map = replacement

    def resolve(self, model: str, label: str) -> int:
        """Return the version behind `label`; raise INVALID_ARGUMENT for an unknown one, also on an unknown model."""
        if self._map is None:
            raise StatusError(Code.UNAVAILABLE, f"Model labels does not init yet.{label}")
        version = self._map.get(model, {}).get(label)
        if version is None:
            raise invalid_argument(f"Unrecognized servable version label: {label}")
        return version

    def _allowed(self, model: str, label: str, version: int) -> bool:
        event = self.monitor.version(ServableId(model, version))
        if event is not None and event.state is State.AVAILABLE:
            return True
        # A label that is in use must not move to a version that cannot answer, even with the flag.
        return self.allow_unavailable and (self._map or {}).get(model, {}).get(label, version) == version
