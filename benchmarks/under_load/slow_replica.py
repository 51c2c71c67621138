"""A model server that is slow to answer: every Predict is passed on to TARGET, and its answer kept for a while.

    python slow_replica.py TARGET SECONDS

Prints its address, and ends when its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys
import threading

import grpc
import grpc.aio

_METHODS = {
    "tensorflow.serving.PredictionService": ("Predict", "GetModelMetadata"),
    "tensorflow.serving.ModelService": ("GetModelStatus",),
}


async def _serve(target: str, seconds: float) -> None:
    async with grpc.aio.insecure_channel(target) as channel:

        def passing_on(service: str, method: str) -> grpc.RpcMethodHandler:
            call = channel.unary_unary(f"/{service}/{method}")

            async def handle(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
                try:
                    answer = await call(request, timeout=context.time_remaining())
                except grpc.aio.AioRpcError as error:
                    await context.abort(error.code(), error.details())
                if method == "Predict":
                    await asyncio.sleep(seconds)
                return answer

            return grpc.unary_unary_rpc_method_handler(handle)

        server = grpc.aio.server()
        for service, methods in _METHODS.items():
            handlers = {method: passing_on(service, method) for method in methods}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(f"127.0.0.1:{port}", flush=True)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True).start()
        await ended.wait()
        await server.stop(0)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], float(sys.argv[2])))
