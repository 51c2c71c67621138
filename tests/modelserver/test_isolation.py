"""A load leaves the rest of the server alone: it may crash, and it may be large."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from embedded_server import RPC_DRIVEN_FLAGS, EmbeddedServer
from modelserver.conftest import wait_state
from modelserver.wire import Wire, model
from tfs_deploy.savedmodel.requests import WARMUP_PATH, GoldenRequest, write_warmup

pytestmark = pytest.mark.tensorflow


def warm_up_with(directory, signature: str) -> None:
    path = directory / WARMUP_PATH
    path.parent.mkdir(exist_ok=True)
    write_warmup(path, "m", [GoldenRequest(signature, {"x": np.ones(1, np.float32)}, {})])


@pytest.mark.parametrize(("signature", "how"), [("abort", "(SIGABRT): "), ("leave", "(exit status 0)")])
def test_a_crash_in_a_load_is_a_failed_load(wire, name, install, tmp_path, signature, how):
    wire.reload(model(f"{name}_good", install("scale1", 1, tmp_path / "good").parent))
    directory = install("ends", "staged", tmp_path / "elsewhere")
    warm_up_with(directory, signature)
    (tmp_path / "m").mkdir()
    directory.rename(tmp_path / "m" / "1")
    good = model(f"{name}_good", tmp_path / "good")
    code, message = wire.reload_error(good, model(name, tmp_path / "m"))
    assert code == "UNKNOWN"
    assert f"{{name: {name} version: 1}} due to error: ABORTED: TensorFlow's runtime ended the process" in message
    assert how in message
    assert wait_state(wire, name, 1, "END")[0] == 10
    assert wire.answer(f"{name}_good") == 1.0
    # The next load is tried in a child of its own again.
    install("scale2", 2, tmp_path / "good")
    wait_state(wire, f"{name}_good", 2, "AVAILABLE")
    assert wire.answer(f"{name}_good") == 2.0


def test_a_slow_warm_up_holds_up_no_other_load(wire, name, install, tmp_path):
    base = install("scale1", 1, tmp_path / "quick").parent
    quick = model(f"{name}_quick", base)
    wire.reload(quick)
    directory = install("several", "staged", tmp_path / "elsewhere")
    path = directory / WARMUP_PATH
    path.parent.mkdir(exist_ok=True)
    write_warmup(path, "m", [GoldenRequest("spin", {"n": np.array(300_000, np.int32)}, {})])
    (tmp_path / "slow").mkdir()
    directory.rename(tmp_path / "slow" / "1")
    pending = threading.Thread(target=lambda: wire.reload(quick, model(name, tmp_path / "slow"), timeout=100))
    pending.start()
    wait_state(wire, name, 1, "LOADING")
    install("scale2", 2, base)
    wait_state(wire, f"{name}_quick", 2, "AVAILABLE")
    assert wire.states(name) == {1: "LOADING"}
    pending.join(100)
    assert wire.states(name) == {1: "AVAILABLE"}


def test_the_fork_server_ends_with_the_server_and_frees_its_port():
    with EmbeddedServer(RPC_DRIVEN_FLAGS) as server:
        deadline = time.monotonic() + 30
        while not (fork_servers := children_of(server.process.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.kill()
        while any(alive(fork_server) for fork_server in fork_servers):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with EmbeddedServer(RPC_DRIVEN_FLAGS, port=server.port) as again:
            wire = Wire(again.target)
            assert wire.rows("nope") == []
            wire.close()


def children_of(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as main:
        found = main.read().split()
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as listed:
            found += listed.read().split()
    return sorted({int(child) for child in found})


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
