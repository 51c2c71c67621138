"""On real replicas: while the first version of a model loads, as long as the test wants, nobody else waits for it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from blocked_model import BlockedModel
from embedded_server import EmbeddedServer
from tfs_deploy.deployment import desired_state
from tfs_deploy.deployment.modes.labels import deploy
from tfs_deploy.deployment.session import GroupSession, open_session
from tfs_deploy.deployment.steps.load import load, wait_until_available
from tfs_deploy.deployment.steps.publish import publish
from tfs_deploy.deployment.steps.reject import reject
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.errors import LoadFailed, TFSDeployError
from tfs_deploy.savedmodel.placeholder import MESSAGE
from tfs_deploy.serving.group import ServingGroup
from tfs_deploy.serving.waiting import WaitLimits
from tfs_deploy.store.open import open_store
from tfs_deploy.validation.config import Gates

pytestmark = pytest.mark.tensorflow

SERVED, SLOW = "served", "slow"
X = np.ones(2, np.float32)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[GroupSession]:
    root = tmp_path / "store"
    root.mkdir()
    with EmbeddedServer() as first, EmbeddedServer() as second:
        group = ServingGroup("default", (first.target, second.target), str(root))
        limits = WaitLimits(load=120.0)
        with open_session(open_store(str(root)), group, actor="a test", wait=limits) as opened:
            yield opened


@pytest.fixture
def blocked(tmp_path: Path, session: GroupSession) -> Iterator[BlockedModel]:
    """A model whose first version loads when the test says so; freed before the servers stop."""
    model = BlockedModel(tmp_path / "staged_slow", tmp_path / "gate")
    yield model
    model.close()


def states(session: GroupSession, model: str) -> list[dict[int, str]]:
    return [
        {row.version: row.state.value for row in client.status(model, timeout=30.0)}
        for client in session.clients.values()
    ]


def until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def names(session: GroupSession) -> list[str]:
    return sorted(os.listdir(Path(session.store.uri) / SLOW))


def stable(session: GroupSession) -> list[int]:
    return [client.metadata(SERVED, label="stable", timeout=30.0).version for client in session.clients.values()]


def test_a_rollback_ends_while_the_first_version_of_another_model_loads(session, blocked, shared_models):
    for number, source in enumerate(("half_plus_two_2_versions/00000123", "half_plus_three/00000123"), start=1):
        assert deploy(session, shared_models / source, SERVED, Gates()).published.version.version == number
    version = publish(session, blocked.directory, SLOW).version.version
    load(session, SLOW, version)
    loading = [{0: "AVAILABLE", version: "LOADING"}] * 2
    until(lambda: states(session, SLOW) == loading)
    assert rollback(session, SERVED).version == 1
    assert stable(session) == [1, 1]
    assert states(session, SLOW) == loading, "the rollback did not wait for the load"
    for client in session.clients.values():
        with pytest.raises(TFSDeployError) as raised:
            client.predict(SLOW, {"x": X}, timeout=30.0)
        assert MESSAGE in str(raised.value).replace("_", " ")
    blocked.let_load()
    wait_until_available(session, SLOW, version)
    assert states(session, SLOW) == [{version: "AVAILABLE", 0: "END"}] * 2
    assert names(session) == [str(version)]
    model = desired_state.read(session.store.documents, session.group).models[SLOW]
    assert (model.versions, model.unloading) == ((version,), ())
    assert [client.predict(SLOW, {"x": X}, timeout=30.0).version for client in session.clients.values()] == [1, 1]
    assert deploy(session, blocked.directory, SLOW, Gates()).published.created is False


def test_a_first_version_that_fails_leaves_neither_the_name_nor_the_placeholder(session, blocked):
    version = publish(session, blocked.directory, SLOW).version.version
    load(session, SLOW, version)
    blocked.let_fail()
    with pytest.raises(LoadFailed, match="No such file"):
        wait_until_available(session, SLOW, version)
    reject(session, SLOW, version, reason="it does not load")
    for rows in states(session, SLOW):
        # A replica that had not begun to load when the other one failed never does (contract 4.3).
        assert (rows[0], rows.get(version, "END") in {"END", "START"}) == ("END", True)
    assert names(session) == [f"{version}.withdrawn"]
    assert SLOW not in desired_state.read(session.store.documents, session.group).models
