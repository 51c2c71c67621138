"""Processors that misbehave, for tests of the pool: spawned processes import them by name."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfs_deploy.gateway.processors.protocol import BadItem


class Obedient:
    """Does what an item says: ``sleep``, ``die``, ``raise``, ``bad``, ``large``, or an int, which it doubles."""

    heavy = ("preprocess", "postprocess")

    def preprocess(self, items: Sequence[Any]) -> Mapping[str, np.ndarray]:
        for index, item in enumerate(items):
            if item == "sleep":
                time.sleep(600)
            if item == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if item == "raise":
                raise ZeroDivisionError("a secret of the user's code")
            if item == "bad":
                raise BadItem(index, "is not to its liking")
            if item == "large":
                return {"x": np.arange(3_000_001, dtype=np.float64).reshape(1, -1), "s": np.array([b"a\0"], object)}
            if item == "nothing":
                return {"x": "no array"}  # type: ignore[dict-item]
        return {"x": np.array([2 * item for item in items]), "pid": np.full(len(items), os.getpid())}

    def postprocess(self, outputs: Mapping[str, np.ndarray]) -> list[Any]:
        return outputs["x"].tolist()


class OneByOne(Obedient):
    """As above, one Predict per item."""

    batches = False


class Spread(Obedient):
    """As above, the items of one request spread over the processes."""

    splits = True


class Unstartable:
    """Can be made in the process that made it first, and nowhere else."""

    def __init__(self, *, parent: int) -> None:
        if os.getpid() != parent:
            raise FileNotFoundError("vocabulary.txt")

    heavy = ("postprocess",)

    def preprocess(self, items: Sequence[Any]) -> Mapping[str, np.ndarray]:
        return {}

    def postprocess(self, outputs: Mapping[str, np.ndarray]) -> list[Any]:
        return []


class NotReentrant:
    """Tells in which thread it runs."""

    def preprocess(self, items: Sequence[Any]) -> Mapping[str, np.ndarray]:
        return {"thread": np.full(len(items), threading.get_ident())}

    def postprocess(self, outputs: Mapping[str, np.ndarray]) -> list[Any]:
        return [threading.get_ident()] * len(outputs["x"])


class Reentrant(NotReentrant):
    """As above, and may run in any."""

    reentrant = True
