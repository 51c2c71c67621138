"""A real gRPC server on loopback that answers from a `FakeModelServer`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from fakes import FakeModelServer, FakeRpcError
from tfs_deploy.serving import rpc


@contextlib.contextmanager
def serve(
    server: FakeModelServer, *, credentials: grpc.ServerCredentials | None = None, port: int = 0
) -> Iterator[str]:
    """Serve the two services of TF Serving at the yielded ``127.0.0.1:port``."""
    handlers = [
        grpc.method_handlers_generic_handler(
            service, {method.name: _handler(server, method) for method in rpc.METHODS if method.service == service}
        )
        for service in (rpc.PREDICTION_SERVICE, rpc.MODEL_SERVICE)
    ]
    with serve_handlers(handlers, credentials=credentials, port=port) as target:
        yield target


@contextlib.contextmanager
def serve_handlers(
    handlers: list[Any], *, credentials: grpc.ServerCredentials | None = None, port: int = 0
) -> Iterator[str]:
    """Serve `handlers` at the yielded ``127.0.0.1:port``."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        grpc_server = grpc.server(pool, handlers=handlers, options=options)
        address = f"127.0.0.1:{port}"
        if credentials is None:
            bound = grpc_server.add_insecure_port(address)
        else:
            bound = grpc_server.add_secure_port(address, credentials)
        grpc_server.start()
        try:
            yield f"127.0.0.1:{bound}"
        finally:
            grpc_server.stop(0).wait()


def _handler(server: FakeModelServer, method: rpc.Method) -> Any:
    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return server.handle(method, request)
        except FakeRpcError as error:
            context.abort(grpc.StatusCode[error.code], error.details)

    return grpc.unary_unary_rpc_method_handler(answer)
