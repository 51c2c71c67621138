"""Processors of a user's, right and wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Numpy:
    """Answers with what numpy has."""

    def preprocess(self, items: Sequence[Any]) -> dict[str, np.ndarray]:
        return {"x": np.array(items, dtype=np.float32)}

    def postprocess(self, outputs: Any) -> list[Any]:
        return [{"a": np.array([1.0, 2.0]), "b": np.int64(3)} for _ in outputs["y"]]


class NotJson(Numpy):
    """Answers with what JSON has no form for."""

    def postprocess(self, outputs: Any) -> list[Any]:
        return [object() for _ in outputs["y"]]


class Broken(Numpy):
    """Fails."""

    def preprocess(self, items: Sequence[Any]) -> dict[str, np.ndarray]:
        raise RuntimeError("secret detail")


class Long(Numpy):
    """Answers with more than the sockets between two processes hold."""

    SIZE = 24 << 20

    def postprocess(self, outputs: Any) -> list[Any]:
        return ["x" * self.SIZE for _ in outputs["y"]]
