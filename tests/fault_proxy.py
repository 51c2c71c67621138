"""A gRPC proxy before a model server that lets some RPCs fail with a code that says nothing about the model."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from tfs_deploy.serving import rpc


@dataclass(frozen=True)
class Faults:
    """Codes with their details, of RPCs that end before the server is asked, and of those whose answer is lost."""

    before: Mapping[str, str]
    after: Mapping[str, str]


# The server is busy, and has done nothing, or the caller is told to ask again (contract 20.12).
BUSY = Faults(
    before={
        "RESOURCE_EXHAUSTED": "Server Threadpool Exhausted",
        "ABORTED": "Operation was aborted",
        "CANCELLED": "CANCELLED",
    },
    after={"CANCELLED": "CANCELLED"},
)
# And the connection to it, or a proxy before it, fails as well.
ANY = Faults(
    before={
        **BUSY.before,
        "UNAVAILABLE": "failed to connect to all addresses; last error: UNKNOWN: Connection refused",
    },
    after={**BUSY.after, "UNAVAILABLE": "Socket closed", "DEADLINE_EXCEEDED": "upstream request timeout"},
)
_FORWARD_SECONDS = 60.0


class FaultProxy:
    """Forwards every RPC, in bytes, to the server at `backend`; each fails with probability `share`.

    Half of the faults lose the answer of an RPC that the server has run. `faults` and `calls` count by method.
    """

    def __init__(self, backend: str, *, share: float, seed: int, kinds: Faults = ANY, threads: int = 16) -> None:
        self.share = share
        self._kinds = kinds
        self.calls: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._backend = backend
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._threads = threads

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """Serve at the yielded address for the block."""
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        with (
            grpc.insecure_channel(self._backend, options=options) as channel,
            ThreadPoolExecutor(self._threads) as pool,
        ):
            handlers = [
                grpc.method_handlers_generic_handler(
                    service,
                    {
                        method.name: self._handler(channel, method)
                        for method in rpc.METHODS
                        if method.service == service
                    },
                )
                for service in (rpc.PREDICTION_SERVICE, rpc.MODEL_SERVICE)
            ]
            server = grpc.server(pool, handlers=handlers, options=[*options, ("grpc.so_reuseport", 0)])
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            try:
                yield f"127.0.0.1:{port}"
            finally:
                server.stop(0).wait()

    def _handler(self, channel: grpc.Channel, method: rpc.Method) -> Any:
        forward = channel.unary_unary(method.path, None, None)

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            before, after = self._choose(method.name)
            if before is not None:
                context.abort(grpc.StatusCode[before], self._kinds.before[before])
            try:
                reply: bytes = forward(request, timeout=context.time_remaining() or _FORWARD_SECONDS)
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
            if after is not None:
                context.abort(grpc.StatusCode[after], self._kinds.after[after])
            return reply

        return grpc.unary_unary_rpc_method_handler(answer)

    def _choose(self, method: str) -> tuple[str | None, str | None]:
        """Return the code to fail with before the server is asked, and the one to lose its answer with."""
        with self._lock:
            self.calls[method] += 1
            if self._random.random() >= self.share:
                return None, None
            self.faults[method] += 1
            if self._random.random() < 0.5:
                return self._random.choice(sorted(self._kinds.before)), None
            return None, self._random.choice(sorted(self._kinds.after))
