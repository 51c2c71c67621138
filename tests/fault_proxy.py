"""A gRPC proxy before a model server that lets some RPCs fail with a code that says nothing about the model."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from tfs_deploy.serving import rpc

# What a busy server, or the connection to it, ends an RPC with before it is run (contract 20.12).
BEFORE = {
    "UNAVAILABLE": "failed to connect to all addresses; last error: UNKNOWN: Connection refused",
    "RESOURCE_EXHAUSTED": "Server Threadpool Exhausted",
    "ABORTED": "Operation was aborted",
    "CANCELLED": "CANCELLED",
}
# And after: the server has done it, and the answer is lost.
AFTER = {"UNAVAILABLE": "Socket closed", "CANCELLED": "CANCELLED", "DEADLINE_EXCEEDED": "Deadline Exceeded"}
_FORWARD_SECONDS = 60.0


class FaultProxy:
    """Forwards every RPC, in bytes, to the server at `backend`; each fails with probability `share`.

    Half of the faults lose the answer of an RPC that the server has run. `faults` and `calls` count by method.
    """

    def __init__(self, backend: str, *, share: float, seed: int, threads: int = 16) -> None:
        self.share = share
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
                context.abort(grpc.StatusCode[before], BEFORE[before])
            try:
                reply: bytes = forward(request, timeout=context.time_remaining() or _FORWARD_SECONDS)
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
            if after is not None:
                context.abort(grpc.StatusCode[after], AFTER[after])
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
                return self._random.choice(sorted(BEFORE)), None
            return None, self._random.choice(sorted(AFTER))
