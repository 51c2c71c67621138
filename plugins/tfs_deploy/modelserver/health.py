"""The standard gRPC health service, which always answers SERVING for TF Serving's two service names.

SERVING means that the port is open, so the first models were available; it does not depend on any model's state.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from tfs_deploy.serving.codec import messages
from tfs_deploy.serving.codec.wire_format import varint

SERVICE = "grpc.health.v1.Health"
# The empty name is the server as a whole: gRPC's own service answers for it too.
SERVING_NAMES = ("", "ModelService", "PredictionService")
_SERVING, _SERVICE_UNKNOWN = 1, 3  # `HealthCheckResponse.ServingStatus`
# A watch occupies a thread until its client ends it, so watches have threads of their own.
MAX_WATCHES = 8
# `DefaultHealthCheckService` of gRPC.
_LONGEST_NAME = 200
_COULD_NOT_PARSE = "could not parse request"
# The service name for bytes that are no request; no service has it.
UNREADABLE = "\0"


class Health:
    """The methods Check and Watch."""

    def __init__(self, max_watches: int = MAX_WATCHES) -> None:
        self._watch_slots = threading.BoundedSemaphore(max_watches)

    def check(self, service: str, context: grpc.ServicerContext) -> int:
        """Return SERVING, or abort with NOT_FOUND for an unknown name."""
        if service == UNREADABLE:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, _COULD_NOT_PARSE)
        if service not in SERVING_NAMES:
            context.abort(grpc.StatusCode.NOT_FOUND, "service name unknown")
        return _SERVING

    def watch(self, service: str, context: grpc.ServicerContext) -> Iterator[int]:
        """Yield the state once, since it never changes, and keep the call open until the client or the server ends."""
        if service == UNREADABLE:
            context.abort(grpc.StatusCode.INTERNAL, _COULD_NOT_PARSE)
        if not self._watch_slots.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watches of this server's health")
        try:
            ended = threading.Event()
            yield _SERVING if service in SERVING_NAMES else _SERVICE_UNKNOWN
            if context.add_callback(ended.set):
                ended.wait()
        finally:
            self._watch_slots.release()


def handler() -> grpc.GenericRpcHandler[Any, Any]:
    """Return the handler of the service."""
    health = Health()
    # Two threads more than watches, so that checks and refusals always get one.
    pool = ThreadPoolExecutor(MAX_WATCHES + 2, thread_name_prefix="health")
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Check": grpc.unary_unary_rpc_method_handler(
                _on_pool(pool, health.check), request_deserializer=service_of, response_serializer=response
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                _on_pool(pool, health.watch), request_deserializer=service_of, response_serializer=response
            ),
        },
    )


def service_of(request: bytes) -> str:
    """Return the name in a HealthCheckRequest: field 1, a string, as is the name of a ModelSpec; or UNREADABLE."""
    try:
        name: str = messages.ModelSpec.FromString(request).name
    except DecodeError:
        return UNREADABLE
    return name if len(name.encode()) <= _LONGEST_NAME else UNREADABLE


def response(status: int) -> bytes:
    """Return a HealthCheckResponse: field 1, a varint."""
    return b"\x08" + varint(status)


def _on_pool(pool: ThreadPoolExecutor, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    def run(request: Any, context: grpc.ServicerContext) -> Any:
        return behaviour(request, context)

    # gRPC runs a behaviour that carries this attribute in that pool instead of the server's.
    run.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return run
