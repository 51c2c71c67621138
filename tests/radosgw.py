"""Ceph's S3 gateway on a cluster of one monitor and one store in memory, for as long as a test module needs it.

Debian's packages: radosgw, ceph-mon, ceph-osd. Its conditional writes are atomic, unlike moto's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from s3_server import ACCESS_KEY, BUCKET, SECRET, S3Server

PROGRAMS = ("monmaptool", "ceph-authtool", "ceph-mon", "ceph-osd", "ceph", "radosgw", "radosgw-admin")
_SECONDS = 90.0

_CONFIG = """
[global]
fsid = {fsid}
mon initial members = a
mon host = 127.0.0.1:{mon_port}
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
mon data avail crit = 1
mon data avail warn = 2
mon allow pool size one = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 1073741824
run dir = {folder}/run
log file = {folder}/log/$name.log
pid file = {folder}/run/$name.pid
admin socket = {folder}/run/$name.asok
mon data = {folder}/mon
osd data = {folder}/osd
keyring = {folder}/keyring
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{rgw_port}
rgw data = {folder}/rgw
"""


@contextlib.contextmanager
def radosgw_server() -> Iterator[S3Server]:
    """Run the gateway; skips where one of its programs is not installed."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian's packages radosgw, ceph-mon, ceph-osd)")
    with contextlib.ExitStack() as stack:
        server = _up(stack)
        server.client().create_bucket(Bucket=BUCKET)
        yield server


def _up(stack: contextlib.ExitStack) -> S3Server:
    """Return a gateway that answers; a cluster may hang at its first pool (seen once in dozens), so there are two."""
    failures = []
    for _ in range(2):
        with contextlib.ExitStack() as attempt:
            # A short path: the sockets below it may have 107 characters at the most.
            folder = Path(tempfile.mkdtemp(prefix="tfs-rgw-", dir="/tmp"))
            attempt.callback(shutil.rmtree, folder, ignore_errors=True)
            cluster = _Cluster(folder, attempt)
            server = S3Server(f"http://127.0.0.1:{cluster.rgw_port}")
            try:
                cluster.start()
                _wait_until_up(server.url)
            except (subprocess.TimeoutExpired, AssertionError) as error:
                failures.append(str(error))
                continue
            stack.push(attempt.pop_all())
            return server
    pytest.skip(f"Ceph does not come up on this machine: {failures}")


class _Cluster:
    """The processes, all ended by the stack."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.mon_port, self.rgw_port = _free_port(), _free_port()
        self._fsid = str(uuid4())
        self._deadline = time.monotonic() + _SECONDS

    def start(self) -> None:
        for name in ("mon", "osd", "rgw", "run", "log"):
            (self._folder / name).mkdir()
        text = _CONFIG.format(fsid=self._fsid, folder=self._folder, mon_port=self.mon_port, rgw_port=self.rgw_port)
        (self._folder / "ceph.conf").write_text(text)
        keyring, monmap = str(self._folder / "keyring"), str(self._folder / "monmap")
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        address = f"[v1:127.0.0.1:{self.mon_port}]"
        self._run("monmaptool", "--create", "--clobber", "--addv", "a", address, "--fsid", self._fsid, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._begin("ceph-mon", "-i", "a", "-f")
        disk = str(uuid4())
        self._run("ceph", "osd", "new", disk)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._begin("ceph-osd", "-i", "0", "-f")
        self._run("ceph", "osd", "crush", "add", "osd.0", "1", "root=default", "host=localhost")
        user = ("--uid=tests", "--display-name=tests", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET}")
        self._run("radosgw-admin", "user", "create", *user)
        self._begin("radosgw", "-n", "client.rgw", "-f")

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "CEPH_CONF": str(self._folder / "ceph.conf")}

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command,
            env=self._environment(),
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=max(1.0, self._deadline - time.monotonic()),
        )
        assert done.returncode == 0, f"{command[:3]}: {done.stderr[-2000:]}"

    def _begin(self, *command: str) -> None:
        log = self._stack.enter_context((self._folder / "log" / f"{command[0]}.out").open("wb"))
        process = subprocess.Popen(command, env=self._environment(), cwd=self._folder, stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_up(url: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            assert time.monotonic() < deadline, "the gateway does not come up"
            time.sleep(0.1)
