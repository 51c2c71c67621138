"""Start-up order and exits: contract 1, 20.5 and 20.8. Each test has a server of its own."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import pytest

from embedded_server import RPC_DRIVEN_FLAGS, EmbeddedServer, free_port
from modelserver.conftest import wait_state
from modelserver.wire import Wire, eventually, model

pytestmark = pytest.mark.tensorflow

QUICK = ("--max_num_load_retries=0", "--file_system_poll_wait_seconds=1")


def write_config(path: Path, *lines: str) -> str:
    path.write_text("model_config_list {\n" + "\n".join(lines) + "\n}\n")
    return f"--model_config_file={path}"


def entry(name: str, base: Path, *, labels: str = "", platform: str = "tensorflow") -> str:
    return f"config {{ name: '{name}' base_path: '{base}' model_platform: '{platform}' {labels} }}"


def exits(*flags: str) -> str:
    """Return the log of a server that must end with 255 by itself."""
    with EmbeddedServer(flags, wait=False) as server:
        assert server.wait_until_ended(30) == 255
        return server.log()


def test_neither_path_nor_config():
    assert (
        "Failed to start server. Error: INVALID_ARGUMENT: Both server_options.model_base_path and "
        "server_options.model_config_file are empty!"
    ) in exits("--model_base_path=")


def test_relative_base_path():
    assert (
        "Error: INVALID_ARGUMENT: Expected model default to have an absolute path or URI; got base_path()=models/m"
    ) in exits("--model_base_path=models/m")


def test_malformed_config(tmp_path):
    (tmp_path / "c").write_text("model_config_list { config { nam")
    log = exits(f"--model_config_file={tmp_path}/c")
    assert f"Error: INVALID_ARGUMENT: Invalid protobuf file: '{tmp_path}/c'" in log


def test_missing_config(tmp_path):
    assert "Error: NOT_FOUND: " in exits(f"--model_config_file={tmp_path}/none")


def test_malformed_flag_shows_the_usage():
    log = exits("--max_num_load_retries=many", "--model_base_path=/x")
    assert "Couldn't interpret value many for flag max_num_load_retries." in log
    assert "--file_system_poll_wait_seconds=" in log


def test_batching_parameters_without_batching():
    assert (
        "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
    ) in exits("--model_base_path=/x", "--batching_parameters_file=/y")


def test_tls_is_refused_rather_than_ignored():
    assert "without TLS" in exits("--model_base_path=/x", "--ssl_config_file=/y")


def test_labels_need_the_flag(tmp_path):
    (tmp_path / "m").mkdir()
    config = write_config(tmp_path / "c", entry("m", tmp_path / "m", labels="version_labels { key: 's' value: 1 }"))
    assert (
        "Error: FAILED_PRECONDITION: Request to assign label to version 1 of model m, "
        "which is not currently available for inference"
    ) in exits(config)


def test_the_latest_version_broken_even_if_an_older_one_is_good(tmp_path, models):
    shutil.copytree(models / "scale1", tmp_path / "1")
    (tmp_path / "2").mkdir()
    assert (
        "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: "
        "{{{name: m version: 2} due to error: NOT_FOUND: Specified file path does not appear to contain"
    ) in exits("--model_name=m", f"--model_base_path={tmp_path}", *QUICK)


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


def test_restart_with_labels_and_config_polling_that_overrides_reloads(tmp_path, models):
    for version in (1, 2):
        shutil.copytree(models / f"scale{version}", tmp_path / "m" / str(version))
    both = "model_version_policy { specific { versions: 1 versions: 2 } } "
    stable, canary = "version_labels { key: 'stable' value: 1 } ", "version_labels { key: 'canary' value: 2 } "
    config = tmp_path / "c"
    flags = (
        write_config(config, entry("m", tmp_path / "m", labels=both + stable + canary)),
        "--model_config_file_poll_wait_seconds=1",
        *RPC_DRIVEN_FLAGS,
    )
    with EmbeddedServer(flags) as server:
        wire = Wire(server.target)
        wait_state(wire, "m", 1, "AVAILABLE")
        assert (wire.answer("m", label="stable"), wire.answer("m", label="canary")) == (1.0, 2.0)
        wire.reload(model("m", tmp_path / "m", 1, 2))
        assert wire.predict_error("m", label="stable")[0] == "INVALID_ARGUMENT"
        eventually(lambda: "stable" not in str(wire_error(wire)), 5)
        config.write_text("model_config_list { config {")
        time.sleep(1.5)
        assert wire.answer("m", label="stable") == 1.0
        write_config(config, entry("m", tmp_path / "m", labels=both + stable.replace("1 }", "2 }")))
        eventually(lambda: wire.answer("m", label="stable") == 2.0, 5)
        assert "Invalid protobuf file" in server.log()
        wire.close()


def wire_error(wire: Wire) -> str:
    try:
        wire.predict("m", label="stable")
    except Exception as error:
        return str(error)
    return ""


def test_single_model_flags_and_default_threads_where_one_bad_model_blocks_the_others(tmp_path, models):
    """With --num_load_threads=0 the manager's own thread sleeps between the retries of a load (contract 20.7)."""
    (tmp_path / "bad" / "1").mkdir(parents=True)
    shutil.copytree(models / "scale1", tmp_path / "good" / "00000001")
    flags = (
        "--model_name=good", f"--model_base_path={tmp_path}/good", "--rest_api_port=1", "--wrong_flag=1",
        "--max_num_load_retries=1", "--load_retry_interval_micros=3000000",
    )  # fmt: skip
    with EmbeddedServer(flags) as server:
        wire = Wire(server.target)
        # The port is open only because the model is available.
        assert wire.states("good") == {1: "AVAILABLE"}
        assert wire.answer("good") == 1.0
        assert "unknown argument: --wrong_flag=1" in server.log()
        assert "not served by this build: --rest_api_port" in server.log()
        bad = model("good", tmp_path / "good"), model("bad", tmp_path / "bad")
        assert wire.reload_error(*bad, timeout=0.3)[0] == "DEADLINE_EXCEEDED"
        wait_state(wire, "bad", 1, "LOADING")
        shutil.copytree(models / "scale2", tmp_path / "staged")
        (tmp_path / "staged").rename(tmp_path / "good" / "2")
        time.sleep(1.2)
        assert wire.states("bad") == {1: "LOADING"}
        # Found by the poll, but the manager is asleep.
        assert wire.states("good").get(2) in (None, "START")
        assert wire.answer("good") == 1.0
        wait_state(wire, "bad", 1, "END")
        wait_state(wire, "good", 2, "AVAILABLE")
        wire.close()
        assert server.stop() == 0


def test_unix_socket(tmp_path):
    path = tmp_path / "s"
    with EmbeddedServer((*RPC_DRIVEN_FLAGS, f"--grpc_socket_path={path}"), port=free_port()) as server:
        assert server.answers()
        wire = Wire(f"unix:{path}")
        assert wire.rows("nope") == []
        wire.close()
