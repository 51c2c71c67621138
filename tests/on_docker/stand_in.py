"""An image whose server is a few lines: what is tried a hundred times is the life cycle, not TensorFlow's start.

It takes tensorflow_model_server's place by name and port; MODE says what it does: `serve`, `die` or `mute`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from on_docker.engine import LOCAL_BASE, docker

IMAGE = "tfs-deploy-test-stand-in"
_SERVER = """#!/usr/bin/env python3
import os, signal, socket, sys, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
mode = os.environ.get("MODE", "serve")
if mode == "die":
    print("Failed to start server. Error: UNKNOWN: told to die", flush=True)
    sys.exit(255)
if mode == "mute":
    time.sleep(3600)
port = next((int(flag[7:]) for flag in sys.argv if flag.startswith("--port=")), 8500)
server = socket.create_server(("0.0.0.0", port))
while True:
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"x")
"""
_DOCKERFILE = f"""FROM {LOCAL_BASE}
COPY server /usr/bin/tensorflow_model_server
USER nobody
ENTRYPOINT ["tensorflow_model_server"]
CMD []
"""


def build(folder: Path) -> str:
    """Build the image from nothing but the local base and return its name."""
    (folder / "server").write_text(_SERVER)
    (folder / "server").chmod(0o755)
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    docker("build", "--quiet", "--tag", IMAGE, str(folder), seconds=300)
    return IMAGE


def remove() -> None:
    """Remove the image."""
    subprocess.run(["docker", "image", "rm", "--force", IMAGE], capture_output=True, timeout=120)
