"""Steps on model servers that answer most RPCs that they are busy: a sound version is never rejected for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pytest

from deployment_names import MODEL
from embedded_server import RPC_DRIVEN_FLAGS, EmbeddedServer
from fakes import FakeClient, FakeClock, FakeVersion
from tfs_deploy.deployment.modes import labels, steps_of
from tfs_deploy.deployment.records import Action, history
from tfs_deploy.deployment.session import open_session
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.deployment.steps.status import status
from tfs_deploy.errors import Inconclusive, LoadInterrupted, Transient
from tfs_deploy.serving.client import connect
from tfs_deploy.serving.group import ServingGroup
from tfs_deploy.serving.runner import EmbeddedRunner
from tfs_deploy.serving.waiting import WaitLimits
from tfs_deploy.store.open import open_store
from tfs_deploy.validation.config import Gates, gates_from


@pytest.fixture
def busy(bench):
    """A group whose clients repeat RPCs to a busy server, with version 1 live and version 2 before it.

    The clients have a clock of their own, because the lease is renewed by a thread in real time.
    """
    bench.promoted("good one")
    bench.promoted("good two")
    clients = {
        server.target: FakeClient(server, clock=FakeClock(), busy_timeout=bench.session.timeouts.busy)
        for server in bench.servers
    }
    bench.session = replace(bench.session, clients=clients)
    return bench


def set_share(bench, share: float) -> None:
    for server in bench.servers:
        server.busy_share = share


def actions(bench) -> list[Action]:
    return [record.action for record in history(bench.store.documents, "default", MODEL)]


def test_a_status_and_a_rollback_get_through_to_servers_that_answer_19_of_20_rpcs_busy(busy) -> None:
    set_share(busy, 0.95)
    assert rollback(busy.session, MODEL).version == 1
    assert status(busy.session, MODEL).drift == ""
    set_share(busy, 0.0)
    assert busy.answers() == [1, 1]


def test_a_sound_version_is_deployed_to_servers_that_answer_19_of_20_rpcs_busy(busy) -> None:
    set_share(busy, 0.95)
    deployed = labels.deploy(busy.session, busy.staged("good three"), MODEL, gates_from({}))
    set_share(busy, 0.0)
    assert busy.answers() == [deployed.published.version.version] * 2


def test_a_sound_version_is_not_rejected_while_the_servers_stay_busy(busy, monkeypatch) -> None:
    before = busy.answers()
    validate = labels.validate

    def validate_busy(*arguments, **options):
        set_share(busy, 1.0)
        return validate(*arguments, **options)

    monkeypatch.setattr(labels, "validate", validate_busy)
    with pytest.raises(Inconclusive, match=r"Server Threadpool Exhausted \(asked ") as caught:
        labels.deploy(busy.session, busy.staged("good three"), MODEL, gates_from({}))
    assert caught.value.exit_code == 3
    assert 3 in busy.store.versions(MODEL)
    assert Action.REJECTED not in actions(busy)
    set_share(busy, 0.0)
    assert busy.answers() == before


def test_a_rollback_that_meets_servers_that_stay_busy_says_so(busy) -> None:
    set_share(busy, 1.0)
    with pytest.raises(Transient, match=r"Server Threadpool Exhausted \(asked \d+ times in \d\d\.\d s\)"):
        rollback(busy.session, MODEL)


@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED"])
def test_a_version_whose_load_lacked_memory_or_a_file_system_is_not_rejected(busy, code: str) -> None:
    version = busy.publish("good three")
    for server in busy.servers:
        server.put(busy.group.base_path(MODEL), version, FakeVersion(broken="OOM", error_code=code))
    with pytest.raises(LoadInterrupted, match=f"{code}: OOM"):
        labels.deploy(busy.session, busy.staged("good three"), MODEL, gates_from({}))
    assert version in busy.store.versions(MODEL)
    assert Action.REJECTED not in actions(busy)
    assert busy.answers() == [2, 2]


@contextmanager
def load_on(target: str, model: str, clients: int) -> Iterator[None]:
    """Send large requests to `stable` from `clients` threads for the block, whatever is answered."""
    stop = threading.Event()
    array = np.ones((50_000, 1), dtype=np.float32)

    def send() -> None:
        with connect(target) as client:
            while not stop.is_set():
                try:
                    client.predict(model, {"x": array}, label="stable", timeout=30.0)
                except Transient:
                    stop.wait(0.001)

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.tensorflow
def test_a_sound_version_is_not_rejected_on_a_server_with_more_clients_than_threads(tmp_path, shared_models) -> None:
    first, second = shared_models / "half_plus_two_2_versions/00000123", shared_models / "half_plus_three/00000123"
    root = tmp_path / "store"
    root.mkdir()
    with EmbeddedServer((*RPC_DRIVEN_FLAGS, "--grpc_max_threads=2")) as server:
        group = ServingGroup("default", (server.target,), str(root), startup_config=str(tmp_path / "models.config"))
        store = open_store(str(root))
        with open_session(store, group, actor="a test", wait=WaitLimits(load=120.0)) as session:

            def deploy(directory) -> int:
                steps = steps_of(session)
                return steps.deploy(
                    session, directory, "loaded", Gates(), make_runner=EmbeddedRunner
                ).published.version.version

            deploy(first)
            with load_on(server.target, "loaded", clients=6), suppress(Transient):  # exit code 3
                deploy(second)
            assert store.versions("loaded") == (1, 2)
            assert Action.REJECTED not in [record.action for record in history(store.documents, "default", "loaded")]
