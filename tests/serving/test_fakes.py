"""The fake model server follows the rules that deployments are built on."""

from __future__ import annotations

import numpy as np
import pytest

from fakes import FakeClient, FakeClock, FakeModelServer, FakeVersion
from tfs_deploy.errors import Busy, DeadlineExceeded, ModelServerError, Unreachable
from tfs_deploy.serving.config import ModelEntry, to_proto


def reload(server: FakeModelServer, *versions: int, **labels: int) -> None:
    FakeClient(server).reload(to_proto([ModelEntry("m", "/m", versions, labels)]), timeout=1)


def test_versions_move_one_state_per_tick() -> None:
    server = FakeModelServer(immediate=False)
    server.put("/m", 1)
    server.put("/m", 2)
    reload(server, 1)
    assert server.state("m", 1) == "AVAILABLE"  # a new name is waited for
    reload(server, 2)
    seen = []
    while server.tick():
        seen.append((server.state("m", 1), server.state("m", 2)))
    assert seen == [
        ("AVAILABLE", "START"),
        ("AVAILABLE", "LOADING"),
        ("AVAILABLE", "AVAILABLE"),
        ("UNLOADING", "AVAILABLE"),
        ("END", "AVAILABLE"),
    ]


def test_a_failed_version_is_tried_again_only_after_it_was_dropped() -> None:
    server = FakeModelServer()
    server.put("/m", 1)
    server.put("/m", 2, FakeVersion(broken="LOADERR"))
    reload(server, 1)
    reload(server, 1, 2)
    server.put("/m", 2)
    reload(server, 1, 2)
    assert server.state("m", 2) == "END"
    reload(server, 1)
    reload(server, 1, 2)
    assert server.state("m", 2) == "AVAILABLE"


def test_a_version_may_appear_after_it_was_listed(tmp_path) -> None:
    server = FakeModelServer(immediate=False)
    (tmp_path / "1").mkdir()
    config = to_proto([ModelEntry("m", str(tmp_path), (1, 2))])
    FakeClient(server).reload(config, timeout=1)
    clock = FakeClock(on_sleep=server.tick)
    clock.sleep(1)
    assert server.state("m", 2) is None
    (tmp_path / "2").mkdir()
    for _ in range(3):
        clock.sleep(1)
    assert server.state("m", 2) == "AVAILABLE"
    assert clock.monotonic() == 4


def test_labels_of_unavailable_versions() -> None:
    strict = FakeModelServer(allow_labels_for_unavailable=False)
    strict.put("/m", 1)
    with pytest.raises(ModelServerError, match="FAILED_PRECONDITION"):
        reload(strict, 1, stable=1)
    lenient = FakeModelServer()
    lenient.put("/m", 1)
    reload(lenient, 1, stable=1)
    with pytest.raises(ModelServerError, match="FAILED_PRECONDITION"):
        reload(lenient, 1, stable=9)
    reload(lenient, 1, stable=1, canary=9)
    assert lenient.labels == {"m": {"stable": 1, "canary": 9}}


def test_a_new_name_that_cannot_load() -> None:
    server = FakeModelServer()
    with pytest.raises(DeadlineExceeded):
        reload(server, 1)
    broken = FakeModelServer()
    broken.put("/m", 1, FakeVersion(broken="LOADERR"))
    with pytest.raises(ModelServerError, match=r"1 model\(s\) did not become available"):
        reload(broken, 1)
    reload(broken, 1)  # OK proves nothing
    assert broken.state("m", 1) == "END"


def test_faults_and_restart() -> None:
    server = FakeModelServer()
    server.put("/m", 1)
    reload(server, 1, stable=1)
    client = FakeClient(server)
    server.unreachable = True
    with pytest.raises(Unreachable):
        client.status("m", timeout=1)
    server.unreachable = False
    server.fail_next("Predict", "UNAVAILABLE", "queue is full")
    with pytest.raises(Busy, match="queue is full"):
        client.predict("m", {"x": np.float32([1])}, timeout=1)
    server.restart()
    assert client.predict("m", {"x": np.float32([1])}, label="stable", timeout=1).version == 1
