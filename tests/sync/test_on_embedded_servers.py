"""Two model servers on separate disks, an agent beside each, a store that neither can read; clients all the time."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asking_clients import AskingClients, X
from embedded_server import RPC_DRIVEN_FLAGS, EmbeddedServer
from sync.remote import AgentProcess, RemoteStore
from tfs_deploy.deployment import sync_agents
from tfs_deploy.deployment.modes.labels import deploy
from tfs_deploy.deployment.session import GroupSession, open_session
from tfs_deploy.deployment.steps.retire import retire
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.errors import TFSDeployError
from tfs_deploy.serving.client import connect
from tfs_deploy.serving.config import ModelEntry, from_text
from tfs_deploy.serving.group import ServingGroup
from tfs_deploy.serving.waiting import WaitLimits
from tfs_deploy.validation.config import Gates

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="two disks under one path need /proc/self/cwd"),
]

MODEL = "plus"
GROUP = "apart"
# Each server process resolves it in its own working directory: one base path, two disks.
MODEL_ROOT = "/proc/self/cwd/models"
PLUS_TWO = "half_plus_two_2_versions/00000123"
PLUS_THREE = "half_plus_three/00000123"


class Replica:
    """A disk, the agent that fills it and the server that reads it."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.models = folder / "models"
        self.startup_config = folder / "models.config"
        self.models.mkdir(parents=True)
        flags = ["--startup-config", str(self.startup_config), "--keep", "0", "--poll", "0.2"]
        self.agent = AgentProcess(store, self.models, GROUP, folder.name, flags)
        self.server = EmbeddedServer(
            (*RPC_DRIVEN_FLAGS, f"--model_config_file={self.startup_config}"),
            command=("env", "-C", str(folder), sys.executable, "-m", "tfs_deploy.modelserver"),
        )

    def shown(self) -> set[str]:
        base = self.models / MODEL
        return {path.name for path in base.iterdir() if path.name.isdigit()} if base.is_dir() else set()


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[tuple[Replica, Replica]]:
    store = tmp_path / "store"
    store.mkdir()
    first, second = Replica(tmp_path / "one", store), Replica(tmp_path / "two", store)
    with first.agent, second.agent:
        for replica in (first, second):
            wait_for(replica.startup_config.exists, "the start-up file of a group that has no desired state yet")
        with first.server, second.server:
            yield first, second


@pytest.fixture
def session(replicas: tuple[Replica, Replica], tmp_path: Path) -> Iterator[GroupSession]:
    group = ServingGroup(GROUP, tuple(replica.server.target for replica in replicas), MODEL_ROOT)
    with open_session(
        RemoteStore(tmp_path / "store"), group, actor="a test", wait=WaitLimits(discovery=20.0, load=60.0)
    ) as opened:
        yield opened


def go(session: GroupSession, directory: Path) -> int:
    return deploy(session, directory, MODEL, Gates()).published.version.version


def test_the_whole_way_without_one_failed_request(replicas, session, shared_models, tmp_path):
    first = go(session, shared_models / PLUS_TWO)
    with AskingClients(session.clients, MODEL) as clients:
        second = go(session, shared_models / PLUS_THREE)
        wait_for(lambda: clients.versions == {first, second}, "answers of a version")
        assert rollback(session, MODEL).version == first
        assert rollback(session, MODEL).version == second
        third = go(session, variant(shared_models, tmp_path))
        wait_for(lambda: third in clients.versions, "answers of a version")
        assert retire(session, MODEL, keep=0).retired == (first,)
        # An agent that dies and comes back takes nothing away and finds everything there.
        replicas[0].agent.kill()
        with AgentProcess(tmp_path / "store", replicas[0].models, GROUP, "one", ["--poll", "0.2"]) as again:
            fourth = go(session, variant(shared_models, tmp_path, "fourth"))
            wait_for(lambda: fourth in clients.versions, "answers of a version")
            assert again.stop() == 0
    assert clients.failures == []
    assert clients.versions == {first, second, third, fourth}
    assert clients.count > 20
    print(f"{clients.count} requests for `stable`, 0 failed")
    for replica in replicas:
        assert {str(third), str(fourth)} <= replica.shown()
    # Written by the agent, at a look of its own after the promotion.
    labels = {"stable": fourth, "previous": third}
    wait_for(lambda: _entry(replicas[1]).labels == labels, "the start-up file")
    assert _entry(replicas[1]).base_path == f"{MODEL_ROOT}/{MODEL}"


def test_a_server_that_restarts_comes_up_with_what_is_stable(replicas, session, shared_models):
    first = go(session, shared_models / PLUS_TWO)
    second = go(session, shared_models / PLUS_THREE)
    text = "version_labels"
    wait_for(lambda: str(second) in replicas[0].startup_config.read_text().rpartition(text)[2], "the start-up file")
    replicas[0].server.stop()
    replicas[0].server.start()
    client = connect(replicas[0].server.target)
    wait_for(lambda: _stable(client) == second, "the label after the restart")
    assert _version(client, "previous") == first
    client.close()


def test_without_an_agent_a_load_says_so_and_puts_everything_back(replicas, session, shared_models):
    first = go(session, shared_models / PLUS_TWO)
    for replica in replicas:
        assert replica.agent.stop() == 0
    assert session.store.documents.list(f"groups/{GROUP}/agents/") == ()
    session = GroupSession(
        session.store, session.group, session.clients, session.actor, wait=WaitLimits(discovery=1.0, load=60.0)
    )
    with pytest.raises(TFSDeployError, match=rf"No sync agent of group '{GROUP}'.*tfs-deploy sync") as caught:
        go(session, shared_models / PLUS_THREE)
    assert caught.value.exit_code == 3
    assert [_stable(client) for client in session.clients.values()] == [first, first]
    with replicas[0].agent, replicas[1].agent:
        wait_for(
            lambda: len(sync_agents.LiveAgents(session.store.documents, GROUP).reports(session.clock.now())) == 2,
            "both",
        )
        second = go(session, shared_models / PLUS_THREE)
    assert [_stable(client) for client in session.clients.values()] == [second, second]


def _entry(replica: Replica) -> ModelEntry:
    (entry,) = from_text(replica.startup_config.read_text())
    return entry


def _stable(client) -> int | None:
    return _version(client, "stable")


def _version(client, label: str) -> int | None:
    try:
        return client.predict(MODEL, {"x": X}, label=label, timeout=30.0).version
    except TFSDeployError:
        return None


def wait_for(condition, what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.05)


def variant(shared_models: Path, folder: Path, name: str = "variant") -> Path:
    """Return a model that answers as half_plus_two does and has another fingerprint."""
    directory = Path(shutil.copytree(shared_models / PLUS_TWO, folder / name))
    (directory / "assets.extra").mkdir()
    (directory / "assets.extra" / "note.txt").write_text(name)
    return directory
