"""An S3 server as a child process, for a demo without a cloud: moto, in memory."""

from __future__ import annotations

import contextlib
import http.client
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tfs_deploy.demo.model_server import child_environment, end, free_port
from tfs_deploy.errors import Unreachable

BUCKET = "tfs-deploy-demo"
_START_SECONDS = 60.0
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """How to reach it; any credentials do, these are made up anew for each run."""

    endpoint: str
    region: str = "us-east-1"
    key_id: str = field(default_factory=lambda: secrets.token_hex(8))
    secret: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    def environment(self) -> dict[str, str]:
        """Return the variables in which boto3 looks for all this."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }


@contextlib.contextmanager
def object_store(log: Path) -> Iterator[ObjectStore]:
    """Start the server, make the bucket, and end it all."""
    port = free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - no shell; a module of this environment
            [sys.executable, "-m", "moto.server", "-H", _HOST, "-p", str(port)],
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _make_bucket(process, port, log)
        yield ObjectStore(f"http://{_HOST}:{port}")
    finally:
        end(process)


def _make_bucket(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up and process.poll() is None:
        connection = http.client.HTTPConnection(_HOST, port, timeout=5.0)
        try:
            connection.request("PUT", f"/{BUCKET}")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise Unreachable("The S3 server of the demo did not start.", f"See {log}.")
