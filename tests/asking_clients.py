"""Clients that ask `stable` on every replica all the time, while a test deploys."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import numpy as np

from tfs_deploy.errors import TFSDeployError
from tfs_deploy.serving.client import connect

X = np.array([[1.0], [2.0], [5.0]], dtype=np.float32)
_PAUSE_SECONDS = 0.01


class AskingClients:
    """A thread per target that sends `X` to the label `stable` of `model` for the block."""

    def __init__(self, targets: Iterable[str], model: str) -> None:
        self._model = model
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(target,)) for target in targets]
        self.failures: list[str] = []
        self.versions: set[int] = set()
        self.count = 0

    def __enter__(self) -> AskingClients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, target: str) -> None:
        client = connect(target)
        while not self._stop.is_set():
            try:
                self.versions.add(client.predict(self._model, {"x": X}, label="stable", timeout=30.0).version)
                self.count += 1
            except TFSDeployError as error:
                self.failures.append(str(error))
            time.sleep(_PAUSE_SECONDS)
        client.close()
