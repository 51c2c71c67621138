"""The demo as a user starts it: what it leaves behind, whatever ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from demo.running import left_running, still_running
from tfs_deploy.demo import results
from tfs_deploy.demo.scenario import GROUP, MODEL
from tfs_deploy.store.open import open_store


def start(workspace: Path, *arguments: str) -> subprocess.Popen[str]:
    # A file, not a pipe: nobody reads while it runs.
    with (workspace.parent / "output.txt").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tfs_deploy.demo.run", *arguments, str(workspace)],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def run_to_the_end(workspace: Path, *arguments: str) -> None:
    """Check that the demo ends well and leaves nothing running."""
    done = start(workspace, *arguments)
    try:
        code = done.wait(timeout=540)
    finally:
        if done.poll() is None:
            os.killpg(done.pid, signal.SIGTERM)
            done.wait(timeout=30)
    assert code == 0, said(workspace)
    assert left_running(workspace) == []


def said(workspace: Path) -> str:
    return (workspace.parent / "output.txt").read_text(encoding="utf-8")


def assert_gateway_had_the_last_word(workspace: Path, text: str) -> None:
    """Check that pictures went through the gateway, and that the demo says so at its end."""
    assert "Held-out digits as PNG files, by the gateway (answered by version 2)" in text
    lines = (workspace / "log" / "gateway-access.log").read_text().splitlines()
    answered = [json.loads(line) for line in lines]
    assert [(line["path"], line["status"], line["version"]) for line in answered] == [("/v1/models/digits", 200, 2)] * 5
    assert len(list((workspace / "gateway").glob("digit-*.png"))) == 5


@pytest.mark.tensorflow
@pytest.mark.airflow
@pytest.mark.timeout(600)
def test_demo_tells_its_story_and_leaves_nothing_running(tmp_path: Path) -> None:
    workspace = tmp_path / "demo"
    run_to_the_end(workspace)
    text = " ".join(said(workspace).split())
    assert "Refused: Version 3 of model 'digits' failed gate accuracy" in text
    assert "stable is still version 2." in text
    assert_gateway_had_the_last_word(workspace, text)
    # What it says is what the store has on record.
    moves = results.moves(open_store(str(workspace / "store")).documents, GROUP, MODEL)
    assert [(move.action, move.version) for move in moves] == [
        ("promoted", 1),
        ("promoted", 2),
        ("rejected", 3),
        ("rolled_back", 1),
        ("rolled_back", 2),
    ]


@pytest.mark.tensorflow
@pytest.mark.airflow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="two disks under one path need /proc/self/cwd")
def test_the_demo_with_s3_serves_from_two_disks(tmp_path: Path) -> None:
    workspace = tmp_path / "demo"
    run_to_the_end(workspace, "--store", "s3")
    text = " ".join(said(workspace).split())
    assert "Refused: Version 3 of model 'digits' failed gate accuracy" in text
    assert "on 2 replicas." in text
    assert_gateway_had_the_last_word(workspace, text)
    assert not (workspace / "store").exists()
    for replica in ("replica-1", "replica-2"):
        versions = {path.name for path in (workspace / replica / "models" / MODEL).iterdir() if path.name.isdigit()}
        assert {"1", "2"} <= versions, versions
        assert 'key: "stable"' in (workspace / replica / "models.config").read_text()


@pytest.mark.tensorflow
@pytest.mark.airflow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    workspace = tmp_path / "demo"
    running = start(workspace)
    give_up = time.monotonic() + 120
    while "Ready after" not in said(workspace) and time.monotonic() < give_up and running.poll() is None:
        time.sleep(0.2)
    time.sleep(1.0)
    assert any("modelserver" in command for command in still_running(workspace))
    running.send_signal(number)
    assert running.wait(timeout=60) == 130, said(workspace)
    assert "Interrupted" in said(workspace)
    assert left_running(workspace) == []


def test_two_demos_do_not_share_a_workspace(tmp_path: Path) -> None:
    workspace = tmp_path / "demo"
    workspace.mkdir()
    with FileLock(workspace / "lock"):
        assert start(workspace).wait(timeout=60) == 1
    assert "Another demo runs" in said(workspace)


def test_a_directory_of_somebody_else_is_not_emptied(tmp_path: Path) -> None:
    workspace = tmp_path / "photos"
    (workspace / "holidays").mkdir(parents=True)
    assert start(workspace).wait(timeout=60) == 1
    assert "no demo has written" in " ".join(said(workspace).split())
    assert (workspace / "holidays").is_dir()
