"""The answer of a model server, and the protocols of the parts that give and count answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]
# In place of a label: the highest version that is AVAILABLE on the model server.
NEWEST = ""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The answer of `version`; `model` is the name on the model server, `label` the requested label or empty.

    `outputs` may be read-only views; `replica` is the address that answered, `attempts` the number of attempts.
    """

    outputs: dict[str, npt.NDArray[Any]]
    model: str
    version: int
    label: str
    replica: str
    attempts: int = 1


def describe_label(label: str) -> str:
    """Return how messages name `label`."""
    return f"label {label!r}" if label != NEWEST else "the newest version"


class Predictor(Protocol):
    """One model, by label."""

    async def predict(self, inputs: Arrays, *, label: str, deadline: float, request_id: str) -> Answer:
        """Return the answer of the version under `label`; raise Problem; `deadline` is monotonic seconds."""


class Meter(Protocol):
    """Counts events for /metrics."""

    def count(self, event: str, **labels: str) -> None:
        """Count one `event`, e.g. ``retry``."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add one `value`, e.g. of ``batch_rows``, to a histogram."""


class NoMeter:
    """A meter that drops everything."""

    def count(self, event: str, **labels: str) -> None:
        """Drop the event."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Drop the event."""
