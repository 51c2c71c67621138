"""Which requests are captured: a share of them, drawn one by one."""

from __future__ import annotations

import random


class Sampler:
    """Takes `percent` of what it is asked about."""

    def __init__(self, percent: float, draw: random.Random | None = None) -> None:
        self.rate = percent / 100.0
        self._draw = draw or random.Random()  # noqa: S311 - which requests are kept is no secret

    def takes(self) -> bool:
        """Tell whether the next one is captured."""
        return self._draw.random() < self.rate
