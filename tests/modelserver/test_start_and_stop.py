"""Start and end of this server beyond the contract suite: logs, signals, sockets."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys

import pytest

from embedded_server import COMMAND, EmbeddedServer
from modelserver.wire import Wire, eventually

pytestmark = pytest.mark.tensorflow

QUICK = ("--max_num_load_retries=0", "--file_system_poll_wait_seconds=1")


def exits(*flags: str) -> str:
    """Return the log of a server that must end with 255 by itself."""
    with EmbeddedServer(flags, wait=False) as server:
        assert server.wait_until_ended(30) == 255
        return server.log()


def test_alts_is_refused_rather_than_ignored():
    assert "ALTS" in exits("--model_base_path=/x", "--use_alts_credentials")


def test_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with EmbeddedServer(port=port, wait=False) as server:
            assert server.wait_until_ended(30) == 255
            assert f"0.0.0.0:{port}" in server.log()


def test_waits_for_ever_on_an_empty_path_and_still_hears_sigterm(tmp_path):
    with EmbeddedServer((f"--model_base_path={tmp_path}", *QUICK), wait=False) as server:
        eventually(lambda: "No versions of servable" in server.log(), 60)
        assert server.process.poll() is None
        assert not server.answers()
        assert server.stop() == 0


@pytest.fixture(scope="module")
def socket_server(models, tmp_path_factory):
    """A server that also listens on a Unix socket, with flags that it does not know; and the socket's path."""
    directory = tmp_path_factory.mktemp("start")
    shutil.copytree(models / "scale1", directory / "good" / "00000001")
    flags = (
        "--model_name=good", f"--model_base_path={directory}/good", "--enable_profiler=true", "--wrong_flag=1",
        f"--grpc_socket_path={directory}/s", *QUICK,
    )  # fmt: skip
    with EmbeddedServer(flags) as server:
        yield server, directory / "s"
        assert server.stop() == 0


def test_flags_that_do_nothing_here_are_named_in_the_log(socket_server):
    server, _ = socket_server
    assert "unknown argument: --wrong_flag=1" in server.log()
    assert "without meaning in this model server: --enable_profiler" in server.log()


def test_both_ports_answer(socket_server):
    server, path = socket_server
    for target in (server.target, f"unix:{path}"):
        wire = Wire(target)
        assert wire.answer("good") == 1.0
        wire.close()


def test_version_and_help_end_at_once():
    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=120)

    version = run("--version", "--no_such_flag")
    assert version.returncode == 0
    first, second = version.stdout.splitlines()
    assert first.startswith("TensorFlow ModelServer: tfs-deploy ")
    assert second.startswith("TensorFlow Library: ")
    malformed = "Couldn't interpret value x for flag port."
    for flags, text in ((("--help",), ""), (("--port=x",), malformed), (("--help", "--version"), "")):
        ended = run(*flags)
        assert ended.returncode == 255
        assert text in ended.stdout
        assert "--file_system_poll_wait_seconds=1" in ended.stdout


def test_the_fork_of_the_process_that_tries_loads_warns_of_nothing():
    """From Python 3.12 on a fork beside threads warns, which would stand in the log of every start."""
    script = (
        "import os, threading, time\n"
        "from tfs_deploy.modelserver.loading.load_probe import _fork_with_threads\n"
        "threading.Thread(target=time.sleep, args=(1,), daemon=True).start()\n"
        "child = _fork_with_threads() or os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-W", "default", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "7\n"
    assert "multi-threaded" not in done.stderr
