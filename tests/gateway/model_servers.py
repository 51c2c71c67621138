"""Model servers on loopback that can be slow, silent, dead or full: `FakeModelServer`s behind grpc.aio.

Run as a program (``python model_servers.py PORT``) it is one such server in a process of its own,
which a test can kill.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
import grpc.aio
import numpy as np

from fakes import FakeModelServer, FakeRpcError, FakeVersion
from gateway.waiting import LONG, ended
from tfs_deploy.gateway.config import GatewayConfig
from tfs_deploy.gateway.config_file import config_from
from tfs_deploy.gateway.upstream.answer import Answer, Arrays
from tfs_deploy.gateway.upstream.model import Upstream
from tfs_deploy.gateway.upstream.watch import Connections
from tfs_deploy.serving import rpc
from tfs_deploy.serving.config import ModelEntry, to_proto
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

MODEL = "m"
BASE_PATH = "/models/m"
_PORTS = range(20_000, 32_000)
_TRIES = 50


def signature(shape: tuple[int | None, ...] | None, dtype: str = "DT_FLOAT", gives: Any = "same") -> Signature:
    """Return one with the input ``x`` of `shape` and the output ``y`` of the shape `gives`."""
    return Signature(
        inputs={"x": TensorSpec(dtype, shape, "x:0")},
        outputs={"y": TensorSpec(dtype, shape if gives == "same" else gives, "y:0")},
        method_name="tensorflow/serving/predict",
    )


def version(
    shape: tuple[int | None, ...] | None = (None,),
    *,
    function: Callable[[Any], Any] = lambda arrays: {"y": arrays["x"]},
    dtype: str = "DT_FLOAT",
    gives: Any = "same",
) -> FakeVersion:
    """Return a version that computes `function`, by default its input."""
    return FakeVersion(function, {DEFAULT_SIGNATURE: signature(shape, dtype, gives)})


class Replica:
    """One model server; `delay` seconds before a Predict is answered, of one version `delays[version]` if given.

    `held`: no Predict is answered before it is set; `silent`: nothing is answered at all; `secretive`: only what a
    label means is not answered. `under_way` Predict calls have come and were neither answered nor called off.
    """

    def __init__(
        self, versions: Mapping[int, FakeVersion] | None = None, labels: Mapping[str, int] | None = None
    ) -> None:
        self.fake = FakeModelServer()
        self.delay = 0.0
        self.delays: dict[int, float] = {}
        self.held: asyncio.Event | None = None
        self.silent = self.secretive = False
        self.under_way = 0
        self.port = 0
        self.on_predict: Callable[[], None] = lambda: None
        self.before_answer: Callable[[], None] = lambda: None
        self._server: Any = None
        self.configure(versions or {1: version()}, {"stable": 1} if labels is None else labels)

    def configure(self, versions: Mapping[int, FakeVersion], labels: Mapping[str, int]) -> None:
        """Have exactly these versions and labels."""
        for number, content in versions.items():
            self.fake.put(BASE_PATH, number, content)
        # Two steps, as a deploy does it: the label check comes before the versions are loaded.
        for wanted in ({}, labels):
            entry = ModelEntry(MODEL, BASE_PATH, tuple(versions), dict(wanted))
            message = rpc.HANDLE_RELOAD_CONFIG.request_class(config=to_proto([entry]))
            self.fake.handle(rpc.HANDLE_RELOAD_CONFIG, message.SerializeToString())

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def predicts(self) -> list[Any]:
        """Return the PredictRequests that reached it."""
        return [message for name, message in self.fake.requests if name == "Predict"]

    @property
    def questions(self) -> list[Any]:
        """Return the GetModelMetadataRequests that reached it."""
        return [message for name, message in self.fake.requests if name == "GetModelMetadata"]

    async def start(self) -> None:
        # As TF Serving: no limit to the size of messages.
        limits = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *limits])
        for service in (rpc.PREDICTION_SERVICE, rpc.MODEL_SERVICE):
            handlers = {method.name: self._handler(method) for method in rpc.METHODS if method.service == service}
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._take_port()
        await self._server.start()

    def _take_port(self) -> None:
        """Take the port, at first one that stays ours while nobody listens on it.

        It is below those that the system gives to outgoing connections: a client that asks a closed port above again
        and again may be given that very port for itself, and nobody can listen on it then.
        """
        for port in [self.port] if self.port else random.SystemRandom().sample(_PORTS, _TRIES):
            try:
                self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
            except RuntimeError:  # taken
                continue
            return
        raise AssertionError(f"the port {self.port or 'of a model server'} is taken")

    async def stop(self) -> None:
        """Go away at once, calls under way included; `start` comes back on the same port."""
        server, self._server = self._server, None
        if server is not None:
            await ended(server.stop(None), f"the end of the model server at {self.target}")

    def _handler(self, method: rpc.Method) -> Any:
        async def answer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            if self.silent or (self.secretive and method is rpc.GET_MODEL_METADATA):
                await asyncio.sleep(600.0)
            if method is rpc.PREDICT:
                await self._take_time(method.request_class.FromString(request).model_spec.version.value)
            self.before_answer()
            try:
                return self.fake.handle(method, request)
            except FakeRpcError as error:
                await context.abort(grpc.StatusCode[error.code], error.details)
                raise

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _take_time(self, number: int) -> None:
        self.under_way += 1
        try:
            self.on_predict()
            await asyncio.sleep(self.delays.get(number, self.delay))
            if self.held is not None:
                await self.held.wait()
        finally:
            self.under_way -= 1


def settings(*targets: str, model: Mapping[str, Any] | None = None, **sections: Any) -> GatewayConfig:
    """Return a configuration of the model ``m`` on `targets`, asked often, and given time for the answer."""
    health = {"interval_seconds": 0.05, "timeout_seconds": 10.0, "max_age_seconds": 10.0} | sections.pop("health", {})
    return config_from({"replicas": list(targets), "models": {MODEL: dict(model or {})}, "health": health, **sections})


@contextlib.asynccontextmanager
async def group(
    *replicas: Replica,
    model: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    **sections: Any,
) -> AsyncIterator[Upstream]:
    """Start `replicas`, and yield an upstream of them."""
    for replica in replicas:
        await replica.start()
    targets = [replica.target for replica in replicas]
    upstream = Upstream(MODEL, settings(*targets, model=model, **sections), Connections(), **(options or {}))
    await ended(upstream.start())
    try:
        yield upstream
    finally:
        await ended(upstream.stop(1.0))
        for replica in replicas:
            await replica.stop()


def x(*values: float) -> dict[str, np.ndarray]:
    """Return the input ``x``."""
    return {"x": np.array(values, dtype=np.float32)}


async def ask(
    upstream: Upstream,
    inputs: Arrays | None = None,
    *,
    label: str = "stable",
    seconds: float = LONG,
    request_id: str = "r",
) -> Answer:
    """Ask with `seconds` to answer."""
    deadline = asyncio.get_running_loop().time() + seconds
    return await upstream.predict(inputs or x(1.0), label=label, deadline=deadline, request_id=request_id)


class Counts:
    """A meter that remembers."""

    def __init__(self) -> None:
        self.events: dict[str, int] = {}
        self.values: dict[str, list[float]] = {}

    def count(self, event: str, **labels: str) -> None:
        self.events[event] = self.events.get(event, 0) + 1

    def observe(self, name: str, value: float, **labels: str) -> None:
        self.values.setdefault(name, []).append(value)


async def _serve(port: int) -> None:
    replica = Replica()
    replica.port = port
    await replica.start()
    print(replica.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
