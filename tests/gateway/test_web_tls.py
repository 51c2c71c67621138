"""The key of the port: one that needs a passphrase is refused where somebody could type it, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from gateway.waiting import LONG
from gateway.web_servers import certificate

_ON_A_TERMINAL = """
import fcntl, sys, termios
from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.config import ListenTLS
from tfs_deploy.gateway.web.server import tls_context
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
try:
    tls_context(ListenTLS(*sys.argv[1:]))
except InvalidInput as error:
    print(error)
"""


def test_a_key_with_a_passphrase_is_refused_and_not_asked_for(tmp_path: Path) -> None:
    certificate(tmp_path, "gateway.test")
    both, locked = tmp_path / "certificate.pem", tmp_path / "locked.pem"
    key = serialization.load_pem_private_key(both.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"a passphrase")
    locked.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, secret)
    )
    terminal, side = os.openpty()
    try:
        told = subprocess.run(
            [sys.executable, "-c", _ON_A_TERMINAL, str(both), str(locked)],
            stdin=side,
            stdout=subprocess.PIPE,
            start_new_session=True,
            timeout=LONG,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    finally:
        os.close(terminal)
        os.close(side)
    assert b"without a passphrase" in told.stdout
