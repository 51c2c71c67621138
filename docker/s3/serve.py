"""Serve S3 from memory: moto with one bucket, and with writes one after the other.

moto compares `If-None-Match` and `If-Match` before it writes, and not as one step; two writers at once would both win.
"""

from __future__ import annotations

import http.client
import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from moto.server import create_backend_app
from werkzeug.serving import make_server

_READS = {"GET", "HEAD"}


def one_write_at_a_time(application: Any) -> Any:
    """Return `application` with a lock around everything that writes."""
    lock = threading.Lock()

    def locked(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] in _READS:
            return application(environ, start_response)
        with lock:
            # The body, too: moto reads it inside.
            return list(application(environ, start_response))

    return locked


def make_bucket(port: int, name: str) -> None:
    """Make the bucket by a request, as any client would."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("PUT", f"/{name}")
    status = connection.getresponse().status
    if status != http.HTTPStatus.OK:
        sys.exit(f"The bucket {name!r} cannot be made: status {status}.")


def main() -> None:
    """Serve until SIGTERM."""
    # A line per request, of which an agent sends two a second.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    port = int(os.environ.get("PORT", "9000"))
    application = one_write_at_a_time(create_backend_app("s3"))
    server = make_server("0.0.0.0", port, application, threaded=True)  # noqa: S104 - in a network of its own
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    make_bucket(port, os.environ.get("BUCKET", "models"))

    def end(signum: int, frame: FrameType | None) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, end)
    thread.join()


if __name__ == "__main__":
    main()
