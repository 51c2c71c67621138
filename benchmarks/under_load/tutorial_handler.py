"""The Tornado handler that tutorials show: a blocking gRPC stub inside `post`, one request at a time.

    python tutorial_handler.py TARGET

Prints its address, and ends when its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading

import grpc
import numpy as np
import tornado.web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from tfs_deploy.serving.codec import messages, tensors

CHANNEL = grpc.insecure_channel(sys.argv[1])
PREDICT = CHANNEL.unary_unary(
    "/tensorflow.serving.PredictionService/Predict",
    request_serializer=lambda message: message.SerializeToString(),
    response_deserializer=messages.PredictResponse.FromString,
)


class Handler(tornado.web.RequestHandler):
    """Answers one image with its probabilities."""

    def post(self) -> None:
        images = np.array([json.loads(self.request.body)["item"]], dtype=np.float32)
        request = messages.PredictRequest()
        request.model_spec.name = "digits"
        request.inputs["images"].CopyFrom(tensors.to_proto(images))
        response = PREDICT(request, timeout=10.0)
        probabilities = tensors.to_array(response.outputs["probabilities"])
        self.write({"result": probabilities[0].tolist()})


async def _serve() -> None:
    server = HTTPServer(tornado.web.Application([(r"/predict", Handler)], log_function=lambda handler: None))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    print(f"127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True).start()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve())
