"""What comes back from a model server, and who may be asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]
# In place of a label: whatever version is the highest that is AVAILABLE on the model server.
NEWEST = ""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One answer: `model` is the name on the model server, `version` computed it, `label` (or none) was asked for.

    `outputs` may be read-only views; `replica` is the address that answered, `attempts` how many were asked.
    """

    outputs: dict[str, npt.NDArray[Any]]
    model: str
    version: int
    label: str
    replica: str
    attempts: int = 1


def describe_label(label: str) -> str:
    """Return `label` as messages name it."""
    return f"label {label!r}" if label != NEWEST else "the newest version"


class Predictor(Protocol):
    """One model, by label."""

    async def predict(self, inputs: Arrays, *, label: str, deadline: float, request_id: str) -> Answer:
        """Return the answer of the version that `label` means; raise Problem; `deadline` is monotonic seconds."""


class Meter(Protocol):
    """Where the rooms below the web room report what happens, for /metrics."""

    def count(self, event: str, **labels: str) -> None:
        """Count one `event`, e.g. ``retry``."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Note one `value`, e.g. of ``batch_rows``."""


class NoMeter:
    """A meter that nobody reads."""

    def count(self, event: str, **labels: str) -> None:
        """Forget it."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Forget it."""
