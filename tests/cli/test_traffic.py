"""The command `traffic` on servers of a real gRPC port: its answers, its exit codes, its marks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.desk import Ran
from saved_model_files import write_saved_model
from tfs_deploy.cli.main import app
from tfs_deploy.cli.stdin_lines import LineBuffer
from tfs_deploy.clock import SystemClock
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.requests import GoldenRequest, write_golden
from tfs_deploy.store.open import open_store
from traffic.servers import MODEL, slow_servers

X = np.array([1.0, 2.0], dtype=np.float32)
GOLDEN = tuple(GoldenRequest("serving_default", {"x": X * factor}, {"y": X}) for factor in (1, 2))


def traffic(servers, *arguments: object) -> Ran:
    line = ["traffic", MODEL, "--target", ",".join(servers), "--rate", "50", "--seconds", "0.4", *map(str, arguments)]
    result = CliRunner().invoke(app, line)
    return Ran(result.exit_code, result.stdout, result.stderr)


def inputs_sent(server) -> set[tuple[float, ...]]:
    return {
        tuple(np.frombuffer(message.inputs["x"].tensor_content, dtype=np.float32).tolist())
        for name, message in server.requests
        if name == "Predict"
    }


def test_a_table_by_phase_and_version_and_a_sentence():
    with slow_servers(2) as servers:
        ran = traffic(servers)
    assert ran.code == 0, ran.err
    head, row, _, sentence, source = ran.out.splitlines()
    assert head.split() == ["from", "phase", "version", "requests", "failed", "rate", "p50", "p90", "p99", "max"]
    assert row.split()[:6] == ["0.0", "s", "start", "1", "20", "0"]
    assert sentence.startswith(f"20 requests to model '{MODEL}' label 'stable' on 2 replicas in 0.4 s: none failed.")
    assert source == "Sent: a made-up request of zeros. Answered by version 1."


def test_json_holds_everything():
    with slow_servers() as servers:
        ran = traffic(servers, "--json")
    assert ran.code == 0
    assert ran.err == ""
    assert ran.json["label"] == "stable"
    assert ran.json["replicas"] == list(servers)
    assert ran.json["asked_rate"] == 50.0
    assert ran.json["total"]["requests"] == ran.json["phases"][0]["versions"][0]["answered"] == 20
    assert set(ran.json["total"]["latency"]) == {"p50_ms", "p90_ms", "p99_ms", "max_ms"}


def test_failed_requests_end_with_1_and_quote_the_server():
    with slow_servers() as servers:
        next(iter(servers.values())).fail_next("Predict", "INTERNAL", "out of luck", times=2)
        ran = traffic(servers)
    assert ran.code == 1
    assert "out of luck" in ran.out
    assert "2 failed (2 INTERNAL)" in ran.out


def test_no_answer_at_all_ends_with_3():
    with slow_servers() as servers:
        next(iter(servers.values())).fail_next("Predict", "INTERNAL", "out of luck", times=20)
        ran = traffic(servers)
        assert ran.code == 3
        assert "Answered by no version." in ran.out
        next(iter(servers.values())).unreachable = True
        assert traffic(servers).code == 3


def test_the_version_and_the_label_to_ask_can_be_named():
    with slow_servers() as servers:
        assert traffic(servers, "--version", 2, "--json").json["total"]["versions"][0]["version"] == 2
        for arguments, message in (
            (("--version", 2, "--label", "stable"), "--label and --version were both given"),
            (("--version", 0), "The version 0 is not usable"),
            (("--label", "nowhere"), "Unrecognized servable version label: nowhere"),
            (("--rate", "nan"), "The rate nan is not usable"),
            (("--requests", "nowhere.tfrecord"), "There is no file 'nowhere.tfrecord'"),
        ):
            ran = traffic(servers, *arguments)
            assert (ran.code, ran.out) == (2, "")
            assert message in ran.err


def test_requests_come_from_the_file_or_the_version_or_the_signature(tmp_path: Path):
    store, staged = tmp_path / "store", tmp_path / "staged"
    store.mkdir()
    write_saved_model(staged, golden=GOLDEN[:1])
    manifest = manifests.build(staged, clock=SystemClock())
    assert open_store(str(store)).publish(staged, manifest, MODEL).version.version == 1
    write_golden(tmp_path / "golden", MODEL, GOLDEN)
    for arguments, source, sent in (
        (("--requests", tmp_path / "golden"), f"2 recorded requests of file '{tmp_path / 'golden'}'", {(1, 2), (2, 4)}),
        (("--store", store), "1 recorded request of version 1 in the store", {(1, 2)}),
        (("--store", store, "--version", 2), "a made-up request of zeros", {(0,)}),
    ):
        with slow_servers() as servers:
            ran = traffic(servers, "--json", *arguments)
            assert ran.json["inputs"] == source
            assert inputs_sent(next(iter(servers.values()))) == sent


def test_requests_that_do_not_fit_the_model_are_refused(tmp_path: Path):
    write_golden(tmp_path / "golden", MODEL, [GoldenRequest("serving_default", {"z": X}, {"y": X})])
    with slow_servers() as servers:
        ran = traffic(servers, "--requests", tmp_path / "golden")
    assert ran.code == 2
    assert "lacks 'x' and adds 'z'" in ran.err


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_lines_on_stdin_begin_phases_and_a_signal_ends_in_good_order(end):
    with slow_servers() as servers:
        command = [sys.executable, "-m", "tfs_deploy.cli", "traffic", MODEL, "--target", ",".join(servers), "--json"]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
        )
        server = next(iter(servers.values()))

        def wait_for_requests(count: int) -> None:
            deadline = time.monotonic() + 60.0
            while sum(name == "Predict" for name, _ in list(server.requests)) < count:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.02)

        wait_for_requests(2)
        process.stdin.write(b"deploy \x1b[31m two\n")
        process.stdin.flush()
        wait_for_requests(12)
        process.send_signal(end)
        out, err = process.communicate(timeout=60.0)
    assert process.returncode == 0, err
    assert [phase["name"] for phase in json.loads(out)["phases"]] == ["start", "deploy  [31m two"]


def test_lines_arrive_in_pieces():
    lines = LineBuffer()
    assert lines.feed(b"dep") == []
    assert lines.feed(b"loy\nroll\xc3") == ["deploy"]
    assert lines.feed(b"\xbc back\r\n\n") == ["roll\u00fc back", ""]
    assert lines.feed(b"x" * 10_000 + b"\n") == ["x" * 60]
