"""An HTTP proxy in front of an S3 server that counts requests, and breaks those that a test chooses."""

from __future__ import annotations

import contextlib
import http.client
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import SplitResult, urlsplit

Action = Callable[[], None]


@dataclass
class Request:
    """One request as the proxy sees it; ``write`` counts those that change something, from 1, 0 for the others.

    ``key_id`` is that of the access key which signed it.
    """

    method: str
    path: str
    write: int
    count: int
    key_id: str = ""


@dataclass
class Fault:
    """What happens to a request: an action before or after it is forwarded, or a broken answer."""

    before: Action | None = None
    after: Action | None = None
    reset: bool = False
    status: int = 0
    code: str = ""
    slow_seconds: float = 0.0
    truncate: bool = False
    """Half of the answer, then a reset: the client may lose bytes that it has not read."""
    close_early: bool = False
    """Half of the answer, then an orderly end: the client gets all of that half."""
    corrupt: bool = False


Rule = Callable[[Request], "Fault | None"]


@dataclass
class Proxy:
    """A running proxy; `rule` may be set at any time."""

    url: str = ""
    rule: Rule | None = None
    requests: list[Request] = field(default_factory=list)
    writes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start_over(self, rule: Rule | None = None) -> None:
        """Count from the beginning, with another rule."""
        with self.lock:
            self.rule, self.writes, self.requests = rule, 0, []

    def note(self, method: str, path: str, authorization: str) -> tuple[Request, Fault | None]:
        with self.lock:
            is_write = method not in {"GET", "HEAD"}
            self.writes += is_write
            key_id = authorization.partition("Credential=")[2].partition("/")[0]
            request = Request(method, path, self.writes if is_write else 0, len(self.requests) + 1, key_id)
            self.requests.append(request)
            rule = self.rule
        return request, rule(request) if rule else None


class Handler(BaseHTTPRequestHandler):
    """One connection of a client, with one to the server."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        target = self.server.target
        self.upstream = http.client.HTTPConnection(target.hostname, target.port, timeout=30)

    def finish(self) -> None:
        self.upstream.close()
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        return None

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()
            return
        self.close_connection = True

    def handle_expect_100(self) -> bool:
        proceed = super().handle_expect_100()
        self.wfile.flush()  # the client waits for it
        return proceed

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request, fault = self.server.proxy.note(self.command, self.path, self.headers.get("Authorization", ""))
        fault = fault or Fault()
        if fault.before:
            fault.before()
        if fault.reset:
            self._reset()
            return
        if fault.status:
            self._answer_error(fault)
            return
        status, headers, data = self._forward(body)
        if fault.after:
            fault.after()
            self._reset()
            return
        self._answer(request, fault, status, headers, data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve  # noqa: N815

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        try:
            self.upstream.request(self.command, self.path, body=body or None, headers=headers)
            answer = self.upstream.getresponse()
        except (http.client.HTTPException, OSError):
            self.upstream.close()
            self.upstream.request(self.command, self.path, body=body or None, headers=headers)
            answer = self.upstream.getresponse()
        data = answer.read()
        return answer.status, answer.getheaders(), data

    def _answer(self, request: Request, fault: Fault, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"transfer-encoding", "content-length", "connection"}:
                self.send_header(name, value)
        length = len(data)
        if request.method == "HEAD":
            length = int(dict((name.lower(), value) for name, value in headers).get("content-length", 0))
        if not (status == 204 or status == 304):
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault.corrupt and data:
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault.truncate:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self._reset()
            return
        if fault.close_early:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif fault.slow_seconds:
            for index in range(4):
                self.wfile.write(data[index * len(data) // 4 : (index + 1) * len(data) // 4])
                self.wfile.flush()
                time.sleep(fault.slow_seconds / 4)
        else:
            self.wfile.write(data)
        self.wfile.flush()

    def _answer_error(self, fault: Fault) -> None:
        text = f"<Error><Code>{fault.code}</Code><Message>made by the test</Message></Error>"
        data = b"" if self.command == "HEAD" else text.encode()
        self.send_response_only(fault.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _reset(self) -> None:
        # Linger 0: the client gets a reset, not an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()


class Server(socketserver.ThreadingTCPServer):
    """Carries what the handlers need."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, proxy: Proxy, target: SplitResult) -> None:
        self.proxy = proxy
        self.target = target
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that are killed break their connections."""


@contextlib.contextmanager
def proxy_to(url: str) -> Iterator[Proxy]:
    """Run a proxy in front of the server at `url`."""
    proxy = Proxy()
    with Server(proxy, urlsplit(url)) as server:
        proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join(10)
