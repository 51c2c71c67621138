"""The metrics of a gateway, by the gateway's own code, without its server."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("tornado", reason="the gateway's packages are not installed")

from tornado.httputil import HTTPHeaders

from tfs_deploy.gateway.web.message import Request
from tfs_deploy.gateway.web.metrics import Metrics


class Gateway:
    """The metrics of a gateway that serves version 1 as stable and version 2 as canary of model `m`."""

    def __init__(self, model: str = "m") -> None:
        self.metrics = Metrics()
        self.model = model

    def reply(self, status: int, version: int = 0, label: str = "", *, count: int = 1, seconds: float = 0.004) -> None:
        fields = {"model": self.model, **({"version": version, "label": label} if version else {})}
        for _ in range(count):
            request = Request("POST", "/v1/models/m:predict", HTTPHeaders(), id="r", remote="::1", started=0.0)
            request.log_fields.update(fields)
            request.stages["predict"] = seconds
            self.metrics.record_request(request, status, seconds)

    def canary_failure(self, status: int, count: int = 1) -> None:
        for _ in range(count):
            self.metrics.meter(self.model).count("canary_fell_back", status=str(status))

    def text(self) -> str:
        return self.metrics.text().decode()

    def serve(self, stable: int = 0, canary: int = 0, *, broken: int = 0) -> None:
        """Count replies of version 1 as stable and of version 2 as canary, and failures of the canary."""
        self.reply(200, 1, "stable", count=stable + broken)
        self.reply(200, 2, "canary", count=canary)
        self.canary_failure(502, broken)


@contextmanager
def web_server(answer: Callable[[http.server.BaseHTTPRequestHandler], tuple[int, str]]) -> Iterator[str]:
    """Serve metrics at the yielded address; `answer` returns status and body of each request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
