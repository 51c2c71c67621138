"""The agent's HTTP server: ``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tfs_deploy.clock import Clock
from tfs_deploy.errors import StoreError
from tfs_deploy.sync.metrics import CONTENT_TYPE, Metrics, PrometheusText

logger = logging.getLogger(__name__)

# A pass makes local calls and a few small reads; with all their timeouts and retries it takes less than this.
PASS_SECONDS = 300.0
# A restart of the agent does not bring an unavailable store back, so short outages are tolerated.
SUCCESS_SECONDS = 300.0
_CLIENT_SECONDS = 5.0


class Health:
    """Health of an agent, from its metrics."""

    def __init__(self, metrics: Metrics, clock: Clock, *, poll: float) -> None:
        self._metrics = metrics
        self._clock = clock
        self._started = clock.now().timestamp()
        self._pass_seconds = PASS_SECONDS + 2 * poll

    def is_alive(self) -> tuple[bool, str]:
        """Tell whether the loop runs and the store has answered within SUCCESS_SECONDS, and the reason if not."""
        numbers, now = self._metrics.values(), self._clock.now().timestamp()
        silence = now - (numbers.last_pass or self._started)
        if silence > self._pass_seconds:
            return False, f"the loop has not come round for {silence:.0f} s"
        outage = now - (numbers.last_success or self._started)
        if outage > SUCCESS_SECONDS:
            return False, f"the store has not answered for {outage:.0f} s"
        return True, "ok"

    def is_ready(self) -> tuple[bool, str]:
        """Tell whether every required version is on the disk, and the reason if not."""
        numbers = self._metrics.values()
        return numbers.ready, "ok" if numbers.ready else f"{numbers.needed} versions needed, not all are here"


@contextmanager
def serve_http(host: str, port: int, metrics: Metrics, clock: Clock, *, poll: float) -> Iterator[int]:
    """Serve on `host`:`port` within the block and yield the port (a free one for 0); StoreError if it is taken."""
    handler = _handler(PrometheusText(metrics), Health(metrics, clock, poll=poll))
    try:
        server = ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise StoreError(
            f"The metrics port {host}:{port} cannot be opened: {error.strerror or error}.", "Choose another one."
        ) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="tfs-deploy-sync-port", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


def _handler(prometheus: PrometheusText, health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # Timeout of each socket: a client that stops half way must not keep a thread.
        timeout = _CLIENT_SECONDS

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._send(200, prometheus.text(), CONTENT_TYPE)
            elif path in {"/healthz", "/readyz"}:
                good, reason = health.is_alive() if path == "/healthz" else health.is_ready()
                self._send(200 if good else 503, f"{reason}\n".encode())
            else:
                self._send(404, b"There are /healthz, /readyz and /metrics.\n")

        def log_message(self, format: str, *args: Any) -> None:
            logger.debug(format, *args)

        def _send(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
