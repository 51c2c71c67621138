"""Model servers of one model on loopback, whose answers a test can delay."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np

from fakes import FakeClient, FakeModelServer, FakeVersion
from serving.grpc_front import serve
from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages
from tfs_deploy.serving.signature import Signature, TensorSpec

MODEL = "half_plus_two"
BASE = "/models/half_plus_two"
OTHER_INPUT = Signature(
    inputs={"x": TensorSpec("DT_FLOAT", (None, 3))},
    outputs={"y": TensorSpec("DT_FLOAT", (None, 3))},
    method_name="tensorflow/serving/predict",
)


class SlowServer(FakeModelServer):
    """A server whose next answers take `delays` seconds, and whose next replies are the bytes of `replies`."""

    def __init__(self) -> None:
        super().__init__()
        self.delays: list[float] = []
        self.replies: list[bytes] = []

    def handle(self, method: rpc.Method, request: bytes) -> bytes:
        if method is rpc.PREDICT and self.replies:
            return self.replies.pop()
        return super().handle(method, request)

    def answer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.delays:
            time.sleep(self.delays.pop())
        return {"y": inputs["x"] / 2 + 2}

    def move(self, stable: int) -> None:
        """Let `stable` answer from another version."""
        config = messages.ModelServerConfig()
        entry = config.model_config_list.config.add(name=MODEL, base_path=BASE, model_platform="tensorflow")
        entry.model_version_policy.specific.versions.extend([1, 2, 3])
        entry.version_labels["stable"] = stable
        FakeClient(self).reload(config, timeout=5.0)


@contextlib.contextmanager
def slow_servers(count: int = 1) -> Iterator[dict[str, SlowServer]]:
    """Serve versions 1 and 2, and 3 with another input shape, on `count` servers; yield them by address."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for _ in range(count):
            server = SlowServer()
            for version in (1, 2):
                server.put(BASE, version, FakeVersion(server.answer))
            server.put(BASE, 3, FakeVersion(server.answer, {"serving_default": OTHER_INPUT}))
            server.move(1)
            servers[stack.enter_context(serve(server))] = server
        yield servers
