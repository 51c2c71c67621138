"""The agent as a program: signals, a crash, a second one, exit codes, its port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.staged_versions import stage
from embedded_server import free_port
from sync.bench import GROUP, Bench, labelled
from sync.remote import SYNC

SLOW = (sys.executable, str(Path(__file__).with_name("slow_agent.py")), "sync")
# A graceful end takes a moment, and what hangs is ended by force after three seconds; on a machine that has other
# things to do both take longer, and what they interrupt takes minutes.
END_SECONDS = 60.0


@pytest.fixture
def start(bench: Bench) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []

    def begin(*flags: str, command=SYNC, per_block: float = 0.0) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*command, *where(bench), *flags],
            stdout=subprocess.PIPE,
            stderr=(bench.folder / "agent.log").open("ab"),
            start_new_session=True,
            env={**os.environ, "SECONDS_PER_BLOCK": str(per_block)},
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def where(bench: Bench) -> list[str]:
    return ["--store", bench.store.uri, "--model-root", str(bench.root), "--group", GROUP, "--name", "agent"]


def once(bench: Bench, *flags: str) -> tuple[int, dict, str]:
    done = subprocess.run(
        [*SYNC, *where(bench), "--once", "--json", *flags], capture_output=True, text=True, timeout=60
    )
    return done.returncode, json.loads(done.stdout), done.stderr


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)


def log(bench: Bench) -> str:
    return (bench.folder / "agent.log").read_text()


def many_files(bench: Bench) -> None:
    """Publish a version of 30 files that take a while on their way."""
    directory, _ = stage(bench.folder / "staged")
    for index in range(30):
        (directory / f"assets/{index:02}.bin").write_bytes(os.urandom(1000))
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.savedmodel import manifest as manifests

    bench.store.publish(directory, manifests.build(directory, clock=SystemClock()), "m")
    bench.want(m=labelled(stable=1))


def test_sigterm_ends_a_download_at_once_and_the_next_start_goes_on(bench, start):
    many_files(bench)
    agent = start(command=SLOW, per_block=0.3)
    kept = bench.root / "m/.incoming-1/assets"
    wait_for(lambda: kept.is_dir() and len(list(kept.iterdir())) > 9, "the first files")
    assert bench.report() is not None
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(END_SECONDS) == 0
    assert bench.report() is None
    assert bench.shown() == []
    inodes = {path.name: path.stat().st_ino for path in kept.iterdir()}
    assert len(inodes) >= 5
    code, result, _ = once(bench)
    assert (code, result["outcome"], result["held"]) == (0, "done", {"m": [1]})
    assert bench.shown() == [1]
    now = {path.name: path.stat().st_ino for path in (bench.root / "m/1/assets").iterdir()}
    assert inodes.items() <= now.items(), "what was there was not brought again"


def test_what_was_killed_goes_on_at_the_next_start(bench, start):
    many_files(bench)
    agent = start(command=SLOW, per_block=0.3)
    kept = bench.root / "m/.incoming-1/assets"
    wait_for(lambda: kept.is_dir() and len(list(kept.iterdir())) > 9, "the first files")
    agent.kill()
    agent.wait()
    assert bench.shown() == []
    start("--poll", "0.1")
    wait_for(lambda: bench.shown() == [1], "the version")
    wait_for(lambda: bench.report() and bench.report().held, "the report of the next life")
    assert bench.leftovers() == []


def test_an_agent_that_hangs_is_ended_by_force(bench, start):
    many_files(bench)
    agent = start(command=SLOW, per_block=600.0)
    wait_for(lambda: (bench.root / "m/.incoming-1").is_dir(), "the stage")
    agent.send_signal(signal.SIGINT)
    assert agent.wait(END_SECONDS) == 0
    assert bench.report() is None


def test_a_second_agent_on_the_same_disk_is_refused(bench, start):
    first = start("--poll", "0.1")
    wait_for(lambda: "fills" in log(bench), "the first agent")
    code, result, _ = once(bench)
    assert code == 1
    assert "Another sync agent works on the model root" in result["error"]
    first.kill()
    first.wait()
    assert once(bench)[0] == 0, "a crash leaves no lock behind"


def test_the_http_server_serves_health_readiness_and_metrics(bench, start):
    pytest.importorskip("prometheus_client", reason="the extra `sync` is not installed")
    port = free_port()
    bench.publish()
    bench.want(m=labelled(stable=2))
    start("--poll", "0.1", "--metrics-port", str(port), "--metrics-host", "127.0.0.1")
    wait_for(lambda: get(port, "/healthz")[0] == 200, "the port")
    wait_for(lambda: 'failures_total{kind="missing"} 0' not in get(port, "/metrics")[1], "a failure")
    assert get(port, "/readyz")[0] == 503
    bench.publish()
    wait_for(lambda: get(port, "/readyz")[0] == 200, "readiness")
    text = get(port, "/metrics")[1]
    assert 'tfs_deploy_sync_versions_held{model="m"} 1.0' in text
    assert "tfs_deploy_sync_ready 1.0" in text
    assert "tfs_deploy_sync_bring_seconds_count 1.0" in text
    assert get(port, "/elsewhere")[0] == 404


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5.0) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_once_for_an_init_container(bench):
    code, result, _ = once(bench, "--startup-config", str(bench.startup_config))
    assert (code, result["outcome"]) == (0, "nothing_needed"), "the first deploy needs a server that runs"
    assert bench.startup_config.read_text() == "model_config_list {\n}\n"
    begun = time.monotonic()
    code, result, _ = once(bench, "--wait", "1", "--poll", "0.1")
    assert (code, result["outcome"]) == (3, "could_not_tell")
    assert time.monotonic() - begun >= 1.0
    bench.publish()
    bench.publish()
    bench.want(m=labelled(stable=1), n=labelled(stable=1, model="n"))
    code, result, _ = once(bench)
    assert (code, result["held"]) == (1, {"m": [1]}), "the store has no model n"
    assert result["problems"][0]["kind"] == "missing"
    bench.want(m=labelled(stable=2, previous=1))
    code, result, errors = once(bench, "--startup-config", str(bench.startup_config))
    assert (code, result["needed"], result["held"], result["problems"]) == (0, {"m": [1, 2]}, {"m": [1, 2]}, [])
    assert errors == ""
    assert "version_labels" in bench.startup_config.read_text()
    assert bench.report() is None, "nobody has to wait for an agent that ends"


def test_once_waits_for_what_is_about_to_come(bench, start):
    agent = start("--once", "--wait", "20", "--poll", "0.1", "--latest", "m", "--json")
    wait_for(lambda: (bench.root / "m").is_dir(), "the folder")
    bench.publish()
    out, _ = agent.communicate(timeout=20.0)
    assert (agent.returncode, json.loads(out)["held"]) == (0, {"m": [1]})


def test_once_refuses_what_is_damaged(bench):
    bench.publish()
    bench.want(m=labelled(stable=1))
    path = bench.folder / "store/m/1/variables/variables.index"
    path.write_bytes(b"xxxxx")
    code, result, _ = once(bench)
    assert (code, result["outcome"], result["held"]) == (1, "refused", {})
    assert "variables/variables.index" in result["problems"][0]["message"]
    assert bench.shown() == []


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--wait", "5"], 2, "--wait is for --once"),
        (["--name", "a/b", "--once"], 2, "agent name"),
        (["--latest", "../m", "--once"], 2, "model name"),
        (["--poll", "0", "--once"], 2, "poll"),
        (["--keep", "-1", "--once"], 2, "keep"),
        (["--latest", "m", "--startup-config", "x", "--once"], 2, "Leave one of the two out"),
        (["--startup-config", "none/x", "--once"], 2, "does not exist"),
        (["--model-root", "none/models", "--once"], 2, "typing error"),
        (["--group", "..", "--once"], 2, "group name"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_changed(bench, flags, code, said):
    done = subprocess.run([*SYNC, *where(bench), *flags], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert said in done.stderr
    assert not bench.root.exists()


def test_a_port_that_is_taken_is_refused(bench, start):
    pytest.importorskip("prometheus_client", reason="the extra `sync` is not installed")
    port = free_port()
    start("--metrics-port", str(port), "--metrics-host", "127.0.0.1")
    wait_for(lambda: get(port, "/healthz")[0] == 200, "the port")
    other = ["--store", bench.store.uri, "--model-root", str(bench.folder / "other"), "--group", GROUP]
    flags = ["--metrics-port", str(port), "--metrics-host", "127.0.0.1"]
    done = subprocess.run([*SYNC, *other, *flags], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "cannot be opened: Address already in use" in done.stderr
