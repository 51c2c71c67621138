"""The command line as a process: how fast it starts, what it imports, how it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.replicas import PLUS_TWO_TF2, child
from embedded_server import free_port
from tfs_deploy.serving.client import connect
from tfs_deploy.serving.replies import VersionState

CLI = [sys.executable, "-m", "tfs_deploy.cli"]
HEAVY = "tensorflow tensorflow_serving keras grpc numpy airflow boto3 docker tornado"


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from tfs_deploy.cli.main import app\n"
        "code = app(['--help'], standalone_mode=False)\n"
        f"heavy = set('{HEAVY}'.split()) & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy or code else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["export", "inspect", "deploy", "status", "sync", "reap"])
def test_every_command_has_a_help(command: str) -> None:
    ran = child(command, "--help", environ={"COLUMNS": "100"})
    assert ran.code == 0
    assert "--json" in ran.out
    assert not re.search(r"<\w+>|[{}]", ran.out)


def test_version() -> None:
    assert child("--version").out.startswith("tfs-deploy ")


def test_a_reader_that_goes_away_is_no_traceback(shared_models: Path) -> None:
    process = subprocess.Popen(
        [*CLI, "inspect", str(shared_models / PLUS_TWO_TF2), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    told = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(60) == 1
    assert "Traceback" not in told


# A shell starts what runs in its background with SIGINT ignored, and children inherit that.
HEARS_CTRL_C = (
    "import runpy, signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "runpy.run_module('tfs_deploy.cli', run_name='__main__', alter_sys=True)\n"
)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_a_sentence(tmp_path: Path, number: int, code: int) -> None:
    # A server that accepts and says nothing: the command waits.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (tmp_path / "store").mkdir()
        (tmp_path / "tfs-deploy.yaml").write_text("timeouts: {status: 60}\n")
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        arguments = ["status", "--store", "store", "--target", target]
        process = subprocess.Popen(
            [sys.executable, "-c", HEARS_CTRL_C, *arguments], stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        listener.settimeout(30)
        peer, _ = listener.accept()
        with peer:
            # The connection is made inside gRPC, which loses an exception that a signal raises there.
            time.sleep(0.5)
            process.send_signal(number)
            _, told = process.communicate(timeout=90)
    assert process.returncode == code
    assert told.startswith("tfs-deploy: Interrupted.")
    assert "Traceback" not in told


@pytest.mark.parametrize("command", [["--help"], ["status"], ["history", "m", "--store", "."]])
def test_ctrl_c_at_any_moment_of_the_start_is_no_traceback(command: list[str], tmp_path: Path) -> None:
    """The interrupt comes while Python imports what the command needs, or a little later."""
    script = (
        "import signal, sys\n"
        "class Announce:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'tfs_deploy.cli.main':\n"
        "            print('!', flush=True)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tfs_deploy.cli.__main__ import run\n"
        "sys.meta_path.insert(0, Announce())\n"
        "run()\n"
    )
    for milliseconds in (0, 40, 80, 120, 160, 220):
        process = subprocess.Popen(
            [sys.executable, "-c", script, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        assert process.stdout is not None
        process.stdout.read(1)
        time.sleep(milliseconds / 1000)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=60)
        assert "Traceback" not in printed, f"after {milliseconds} ms: {printed}"
        assert process.returncode in {130, 0, 2, -signal.SIGINT}


@pytest.mark.tensorflow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_no_throw_away_server_outlives_an_interrupted_validation(
    shared_models: Path, tmp_path: Path, number: int, code: int
) -> None:
    """A terminal sends Ctrl-C to every process of the foreground group, in this case while the server imports."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEARS_CTRL_C, "validate", str(shared_models / PLUS_TWO_TF2)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not _processes_with(tmp_path):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.0)
    os.killpg(process.pid, number)
    # The command itself gives the server 2 s.
    assert process.wait(6) == code
    # What the server forked ends when it sees that it is alone.
    deadline = time.monotonic() + 30
    while _processes_with(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not list(tmp_path.iterdir())


def _processes_with(path: Path) -> list[str]:
    """Return the running processes that have `path` in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(path).encode() in entry.read_bytes():
                found.append(entry.parent.name)
    return found


@pytest.mark.tensorflow
def test_model_server_is_the_embedded_server_itself(shared_models: Path, tmp_path: Path) -> None:
    base = tmp_path / "half"
    base.mkdir()
    (base / "1").symlink_to(shared_models / PLUS_TWO_TF2, target_is_directory=True)
    port = free_port()
    flags = [f"--port={port}", "--model_name=half", f"--model_base_path={base}"]
    process = subprocess.Popen([*CLI, "model-server", *flags], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    client = connect(f"127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + 60
        while not _available(client):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        client.close()
        if process.poll() is None:
            process.kill()
            process.wait()


def _available(client: object) -> bool:
    try:
        rows = client.status("half", timeout=1.0)
    except Exception:
        return False
    return any(row.state is VersionState.AVAILABLE for row in rows)


@pytest.mark.tensorflow
@pytest.mark.parametrize("flags", [["--help"], ["--port=nonsense"], ["--version"]])
def test_model_server_takes_its_flags_and_exit_code_untouched(flags: list[str]) -> None:
    direct = subprocess.run(
        [sys.executable, "-m", "tfs_deploy.modelserver", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ran = child("model-server", *flags)
    assert (ran.code, ran.out) == (direct.returncode, direct.stdout)
