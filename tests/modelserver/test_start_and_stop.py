"""Start and end of this server beyond the contract suite: logs, signals, sockets. Each test has a server of its own."""

from __future__ import annotations

import shutil
import socket
import time

import pytest

from embedded_server import RPC_DRIVEN_FLAGS, EmbeddedServer, free_port
from modelserver.wire import Wire

pytestmark = pytest.mark.tensorflow

QUICK = ("--max_num_load_retries=0", "--file_system_poll_wait_seconds=1")


def exits(*flags: str) -> str:
    """Return the log of a server that must end with 255 by itself."""
    with EmbeddedServer(flags, wait=False) as server:
        assert server.wait_until_ended(30) == 255
        return server.log()


def test_malformed_flag_shows_the_usage():
    log = exits("--max_num_load_retries=many", "--model_base_path=/x")
    assert "Couldn't interpret value many for flag max_num_load_retries." in log
    assert "--file_system_poll_wait_seconds=" in log


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
        time.sleep(3)
        assert server.process.poll() is None
        assert not server.answers()
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 5


def test_flags_that_do_nothing_here_are_named_in_the_log(tmp_path, models):
    shutil.copytree(models / "scale1", tmp_path / "good" / "00000001")
    flags = (
        "--model_name=good", f"--model_base_path={tmp_path}/good", "--enable_profiler=true", "--wrong_flag=1", *QUICK,
    )  # fmt: skip
    with EmbeddedServer(flags) as server:
        wire = Wire(server.target)
        assert wire.answer("good") == 1.0
        assert "unknown argument: --wrong_flag=1" in server.log()
        assert "without meaning in this model server: --enable_profiler" in server.log()
        wire.close()
        assert server.stop() == 0


def test_unix_socket(tmp_path):
    path = tmp_path / "s"
    with EmbeddedServer((*RPC_DRIVEN_FLAGS, f"--grpc_socket_path={path}"), port=free_port()) as server:
        assert server.answers()
        wire = Wire(f"unix:{path}")
        assert wire.rows("nope") == []
        wire.close()
