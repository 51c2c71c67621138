"""A throw-away server does not outlive the process that started it, however that one ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from embedded_server import free_port

pytestmark = pytest.mark.tensorflow

STARTER = """
import os, subprocess, sys
environment = {**os.environ, "TFS_DEPLOY_END_WITH_PARENT": str(os.getpid())}
child = subprocess.Popen([sys.executable, "-m", "tfs_deploy.modelserver", *sys.argv[1:]], env=environment)
print(child.pid, flush=True)
child.wait()
"""


def test_the_server_ends_when_its_starter_is_killed(tmp_path):
    config = tmp_path / "models.config"
    config.write_text("model_config_list { }\n")
    command = [sys.executable, "-c", STARTER, f"--port={free_port()}", f"--model_config_file={config}"]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    server = int(starter.stdout.readline())
    os.kill(server, 0)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    deadline = time.monotonic() + 30.0
    while _runs(server):
        assert time.monotonic() < deadline, "the server outlived its starter"
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
