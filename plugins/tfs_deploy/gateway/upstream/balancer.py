"""Which replica gets the next request: of two drawn at random, the one that is likely to answer first.

"Power of two choices" (Mitzenmacher, 2001): comparing two random ones spreads load nearly as well as comparing all,
and many gateways that act alike do not all run to the same replica. What is compared is "peak EWMA" (Finagle):
the replica's latency, of which a rise is believed at once and a fall slowly, times its requests under way.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

# A latency that is this many seconds old counts 1/e.
MEMORY_SECONDS = 10.0
# What a replica that was never asked is taken for; keeps the requests under way in the comparison.
FLOOR_SECONDS = 0.001


class Load:
    """The load of one replica: requests under way, and the latency that it showed lately."""

    def __init__(self, now: float) -> None:
        self.outstanding = 0
        self._seconds = 0.0
        self._noted = now

    def started(self) -> None:
        """Note that a request is meant for this replica."""
        self.outstanding += 1

    def ended(self) -> None:
        """Note that it is over."""
        self.outstanding -= 1

    def answered(self, now: float, seconds: float) -> None:
        """Note how long an answer took."""
        left = math.exp(-max(0.0, now - self._noted) / MEMORY_SECONDS)
        old = self._seconds
        # A slow answer is believed at once; a quick one lowers the latency by its share of the time passed.
        self._seconds = seconds if seconds > old else old * left + seconds * (1.0 - left)
        self._noted = now

    def cost(self, now: float) -> float:
        """Return how long the next request is expected to take, in seconds."""
        left = math.exp(-max(0.0, now - self._noted) / MEMORY_SECONDS)
        return (self._seconds * left + FLOOR_SECONDS) * (self.outstanding + 1)


class Loaded(Protocol):
    """What has a load."""

    @property
    def load(self) -> Load:
        """Return it."""


T = TypeVar("T", bound=Loaded)


def choose(candidates: Sequence[T], now: float, draw: random.Random) -> T | None:
    """Return the one of `candidates` to ask next; None if there is none."""
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    one, other = draw.sample(candidates, 2)
    return other if other.load.cost(now) < one.load.cost(now) else one
