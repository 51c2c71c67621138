"""The files of the placeholder around the load of a model's first version: on a shared disk, and through agents."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deployment.fuse import Fuse, Killed, fused
from deployment_names import MODEL
from saved_model_files import write_saved_model
from store.faults import FaultyFilesystem, failing
from sync.bench import at_once
from sync.remote import RemoteStore
from tfs_deploy.deployment import desired_state, placeholder, sync_requests
from tfs_deploy.deployment.desired_state import DesiredModel, DesiredState
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.load import load, wait_until_available
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.publish import publish
from tfs_deploy.deployment.steps.reject import reject
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.deployment.steps.validate import validate
from tfs_deploy.errors import DeadlineExceeded, InvalidInput, NotFound, Refused, Unreachable
from tfs_deploy.jsonable import to_json
from tfs_deploy.store.local.store import LocalStore
from tfs_deploy.sync.agent import Agent
from tfs_deploy.sync.disk import ReplicaDisk
from tfs_deploy.sync.settings import AgentSettings
from tfs_deploy.validation.config import Gates


def names(root: str | Path, model: str = MODEL) -> list[str]:
    base = Path(root) / model
    return sorted(os.listdir(base)) if base.is_dir() else []


def list_versions(session: GroupSession, *versions: int) -> None:
    """Write a desired state that lists these versions of the model."""
    key = desired_state.key(session.group.name)
    document = session.store.documents.read(key)
    models = {MODEL: DesiredModel(session.group.base_path(MODEL), versions)} if versions else {}
    body = to_json(DesiredState(models=models))
    session.store.documents.write(key, body, expected=document.tag if document else None)


def requests(session: GroupSession) -> list[tuple[str, int]]:
    stored, _ = sync_requests.read(session.store.documents, session.group.name)
    return [(each.model, each.version) for each in stored.versions]


@pytest.fixture
def session(bench) -> GroupSession:
    """A group whose store has version 1 of the model."""
    assert publish(bench.session, bench.staged("good one"), MODEL).version.version == 1
    return bench.session


@pytest.fixture
def other(bench, session) -> GroupSession:
    """Another group on the same store."""
    return replace(session, group=replace(session.group, name="staging"))


def test_it_lies_on_a_shared_disk_until_it_is_removed(session):
    with placeholder.laid_down(session, MODEL):
        assert names(session.store.uri) == ["0", "1"]
        list_versions(session, 0)
    assert requests(session) == []
    assert placeholder.remove(session, MODEL)
    assert names(session.store.uri) == ["0", "1"], "the desired state lists it"
    list_versions(session, 0, 1)
    assert placeholder.remove(session, MODEL)
    assert names(session.store.uri) == ["0", "1"]
    list_versions(session, 1)
    for _ in range(2):
        assert placeholder.remove(session, MODEL)
        assert names(session.store.uri) == ["1"]


def test_after_an_error_in_the_block_nothing_is_left(session):
    with pytest.raises(Unreachable), placeholder.laid_down(session, MODEL):
        raise Unreachable("A replica does not answer.", "Start it.")
    assert names(session.store.uri) == ["1"]
    assert requests(session) == []


def test_what_has_its_number_already_is_a_clear_error(session):
    (Path(session.store.uri) / MODEL / "0").mkdir()
    with pytest.raises(Refused, match="in the place of the placeholder"), placeholder.laid_down(session, MODEL):
        pytest.fail("the block ran")
    assert names(session.store.uri) == ["0", "1"]
    assert requests(session) == []


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "asked for"])
def test_what_another_group_needs_stays(session, other, listed):
    with placeholder.laid_down(session, MODEL), placeholder.laid_down(other, MODEL):
        list_versions(session, 0)
        if listed:
            list_versions(other, 0)
        list_versions(session, 1)
        assert placeholder.remove(session, MODEL)
        assert names(session.store.uri) == ["0", "1"]
        list_versions(other, 1)
    assert placeholder.remove(other, MODEL)
    assert names(session.store.uri) == ["1"]


def test_one_that_another_group_asks_for_while_it_is_removed_is_put_back(session, other):
    class Store(LocalStore):
        def remove_placeholder(self, model: str) -> None:
            sync_requests.request_version(other, model, 0)
            other.store.put_placeholder(model)
            super().remove_placeholder(model)

    session.store.put_placeholder(MODEL)
    racing = replace(session, store=Store(Path(session.store.uri)))
    assert placeholder.remove(racing, MODEL)
    assert names(session.store.uri) == ["0", "1"]


def test_a_request_of_a_deployer_that_died_long_ago_keeps_it_no_longer(bench, session, other):
    session.store.put_placeholder(MODEL)
    sync_requests.request_version(other, MODEL, 0)
    placeholder.remove(session, MODEL)
    assert names(session.store.uri) == ["0", "1"]
    bench.clock.advance(100_000.0)
    placeholder.remove(session, MODEL)
    assert names(session.store.uri) == ["1"]


def test_a_disk_that_does_not_let_it_go_is_a_warning(session, caplog):
    session.store.put_placeholder(MODEL)
    store = LocalStore(Path(session.store.uri), files=FaultyFilesystem(1, failing(5)))
    assert not placeholder.remove(replace(session, store=store), MODEL)
    assert "was not removed" in caplog.text
    assert placeholder.remove(session, MODEL)
    assert names(session.store.uri) == ["1"]


def test_a_deployer_that_dies_anywhere_leaves_nothing_after_a_rerun(make: Callable, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    points = 0
    for at in range(200):
        (tmp_path / str(at)).mkdir()
        session = make(tmp_path / str(at)).session
        root = session.store.uri
        publish(session, write_saved_model(tmp_path / str(at) / "staged"), MODEL)

        def bring_up(session: GroupSession) -> None:
            with placeholder.laid_down(session, MODEL):
                list_versions(session, 0)
            list_versions(session, 0, 1)
            list_versions(session, 1)
            placeholder.remove(session, MODEL)

        try:
            bring_up(fused(session, Fuse(at, lambda: None)))
        except Killed:
            points += 1
            bring_up(session)
        else:
            break
        assert names(root) == ["1"]
        assert requests(session) == []
    assert points > 10


class AgentSide:
    """A store that servers cannot read, and an agent that makes a pass whenever the deployer sleeps."""

    def __init__(self, bench) -> None:
        self.disk = bench.folder / "replica"
        store = RemoteStore(bench.folder / "store", clock=bench.clock)
        group = replace(bench.group, model_root=str(self.disk), startup_config=None)
        self.session = replace(bench.session, store=store, group=group)
        disk = ReplicaDisk(self.disk)
        disk.prepare()
        settings = AgentSettings("default", "one", startup_config=bench.folder / "models.config")
        self.agent = Agent(store, disk, settings, clock=bench.clock, launch=at_once)
        self.agent.poll()
        bench.clock._on_sleep = self.agent.poll


@pytest.fixture
def side(bench, session) -> AgentSide:
    return AgentSide(bench)


def test_agents_lay_it_down_and_take_it_away_by_themselves(side, bench):
    with placeholder.laid_down(side.session, MODEL):
        assert names(side.disk) == ["0"]
        list_versions(side.session, 0)
    for _ in range(3):
        side.agent.poll()
    assert names(side.disk) == ["0"]
    list_versions(side.session, 0, 1)
    for _ in range(5):
        side.agent.poll()
    list_versions(side.session, 1)
    assert placeholder.remove(side.session, MODEL)
    side.agent.poll()
    assert names(side.disk) == ["1"]
    assert names(bench.store.uri) == ["1"], "the store never had it"


def test_a_place_that_is_taken_on_an_agents_disk_is_named(side, bench):
    (side.disk / MODEL / "0").mkdir(parents=True)
    taken = pytest.raises(DeadlineExceeded, match="in the place of the placeholder")
    with taken, placeholder.laid_down(side.session, MODEL):
        pytest.fail("the block ran")
    assert requests(side.session) == []


def test_no_step_takes_it_for_a_version(session):
    load(session, MODEL, 1)
    for step in (load, wait_until_available, promote):
        with pytest.raises(InvalidInput, match="version 0"):
            step(session, MODEL, 0)
    with pytest.raises(InvalidInput, match="version 0"):
        validate(session, MODEL, 0, Gates())
    with pytest.raises(InvalidInput, match="version 0"):
        reject(session, MODEL, 0, reason="not a version")
    with pytest.raises((InvalidInput, NotFound)):
        rollback(session, MODEL, to=0)
