"""The port that tells about an agent over HTTP: ``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tfs_deploy.clock import Clock
from tfs_deploy.errors import StoreError
from tfs_deploy.sync.figures import Figures
from tfs_deploy.sync.metrics import CONTENT_TYPE, Exposition

logger = logging.getLogger(__name__)

# A pass makes local calls and a few small reads, whose limits of time and numbers of tries add up; one that takes
# longer than this hangs.
PASS_SECONDS = 300.0
# Long enough for a store to be away for a while: a restart of the agent would not bring it back.
SUCCESS_SECONDS = 300.0
_CLIENT_SECONDS = 5.0


class Health:
    """Judges an agent by its numbers."""

    def __init__(self, figures: Figures, clock: Clock, *, poll: float) -> None:
        self._figures = figures
        self._clock = clock
        self._started = clock.now().timestamp()
        self._pass_seconds = PASS_SECONDS + 2 * poll

    def is_alive(self) -> tuple[bool, str]:
        """Tell whether the loop runs and the store has answered lately, and why not."""
        numbers, now = self._figures.numbers(), self._clock.now().timestamp()
        silent = now - (numbers.last_pass or self._started)
        if silent > self._pass_seconds:
            return False, f"the loop has not come round for {silent:.0f} s"
        deaf = now - (numbers.last_success or self._started)
        if deaf > SUCCESS_SECONDS:
            return False, f"the store has not answered for {deaf:.0f} s"
        return True, "ok"

    def is_ready(self) -> tuple[bool, str]:
        """Tell whether everything that is needed is on the disk."""
        numbers = self._figures.numbers()
        return numbers.ready, "ok" if numbers.ready else f"{numbers.needed} versions needed, not all are here"


@contextmanager
def listening(host: str, port: int, figures: Figures, clock: Clock, *, poll: float) -> Iterator[int]:
    """Answer on `host`:`port` for the block and yield the port (a free one for 0); raise StoreError if it is taken."""
    handler = _handler(Exposition(figures), Health(figures, clock, poll=poll))
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


def _handler(exposition: Exposition, health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # Of each socket: a client that stops half way must not keep a thread.
        timeout = _CLIENT_SECONDS

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._send(200, exposition.text(), CONTENT_TYPE)
            elif path in {"/healthz", "/readyz"}:
                good, told = health.is_alive() if path == "/healthz" else health.is_ready()
                self._send(200 if good else 503, f"{told}\n".encode())
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
