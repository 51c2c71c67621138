"""The first version of a model: behind the placeholder, which leaves no trace, wherever the deployer dies (I3)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deployment.fuse import Fuse, Killed, fused
from deployment_names import MODEL
from tfs_deploy.deployment import desired_state, sync_requests
from tfs_deploy.deployment.modes.labels import deploy
from tfs_deploy.deployment.records import history
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.load import load, wait_until_available
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.publish import publish
from tfs_deploy.deployment.steps.reject import reject
from tfs_deploy.deployment.steps.validate import validate
from tfs_deploy.errors import LoadFailed, Refused, Unreachable
from tfs_deploy.validation.config import Gates

NEW = "new_model"


def desired(bench):
    return desired_state.read(bench.store.documents, bench.group).models.get(NEW)


def names(bench) -> list[str]:
    base = Path(bench.store.uri) / NEW
    return sorted(os.listdir(base)) if base.is_dir() else []


def first_deploy(bench, session: GroupSession, behaviour: str = "good two") -> None:
    deploy(session, bench.staged(behaviour), NEW, Gates())


def check_ended(bench, *, loaded: bool) -> None:
    """Check that the placeholder is gone from the desired state, the servers, the disk, the requests and the record."""
    model = desired(bench)
    if loaded:
        assert (model.versions, model.unloading, model.labels) == ((1,), (), {"stable": 1})
        assert names(bench) == ["1"]
        assert [server.state(NEW, 1) for server in bench.servers] == ["AVAILABLE"] * 2
    else:
        assert model is None
        assert {name.partition(".")[2] for name in names(bench)} == {"withdrawn"}
    assert {server.state(NEW, 0) for server in bench.servers} <= {"END", None}
    assert sync_requests.read(bench.store.documents, bench.group.name)[0].versions == ()
    assert all(entry.version > 0 for entry in history(bench.store.documents, "default", NEW))


def test_the_name_is_known_everywhere_before_its_first_version_is_listed(bench):
    bench.promoted("good one")
    first_deploy(bench, bench.session)
    check_ended(bench, loaded=True)
    for server in bench.servers:
        reloads = [request for method, request in server.requests if method == "HandleReloadConfigRequest"]
        models = (model for request in reloads for model in request.config.model_config_list.config)
        listed = [tuple(model.model_version_policy.specific.versions) for model in models if model.name == NEW]
        assert list(dict.fromkeys(listed)) == [(0,), (0, 1), (1,)]
    assert bench.answers() == [1, 1]


def test_the_placeholder_answers_until_the_first_version_does(bench):
    version = publish(bench.session, bench.staged("good two"), NEW).version.version
    load(bench.session, NEW, version)
    assert desired(bench).versions == (0, version)
    assert names(bench) == ["0", "1"]
    assert [server.state(NEW, 0) for server in bench.servers] == ["AVAILABLE"] * 2
    wait_until_available(bench.session, NEW, version)
    assert (desired(bench).versions, desired(bench).unloading) == ((version,), ())
    assert names(bench) == ["1"]


def test_a_first_version_that_fails_leaves_neither_the_name_nor_the_placeholder(bench):
    bench.promoted("good one")
    with pytest.raises(LoadFailed):
        first_deploy(bench, bench.session, "broken")
    check_ended(bench, loaded=False)
    # The next try of the name is as the first.
    first_deploy(bench, bench.session)
    assert desired(bench).versions == (2,)
    assert names(bench) == ["1.withdrawn", "2"]


def test_one_first_version_fails_and_another_one_loads(bench):
    broken = publish(bench.session, bench.staged("broken"), NEW).version.version
    good = publish(bench.session, bench.staged("good two"), NEW).version.version
    load(bench.session, NEW, broken)
    load(bench.session, NEW, good)
    with pytest.raises(LoadFailed):
        wait_until_available(bench.session, NEW, broken)
    reject(bench.session, NEW, broken, reason="broken")
    wait_until_available(bench.session, NEW, good)
    assert (desired(bench).versions, desired(bench).unloading) == ((good,), ())
    assert names(bench) == ["1.withdrawn", "2"]


def test_a_promotion_drops_it_after_a_load_that_another_process_waited_for(bench):
    version = publish(bench.session, bench.staged("good two"), NEW).version.version
    load(bench.session, NEW, version)
    validate(bench.session, NEW, version, Gates())
    promote(bench.session, NEW, version)
    check_ended(bench, loaded=True)


def test_a_replica_that_is_away_refuses_the_name_and_nothing_is_left(bench):
    publish(bench.session, bench.staged("good two"), NEW)
    bench.servers[1].unreachable = True
    with pytest.raises(Unreachable):
        load(bench.session, NEW, 1)
    bench.servers[1].unreachable = False
    load(bench.session, NEW, 1)
    wait_until_available(bench.session, NEW, 1)
    assert (desired(bench).versions, desired(bench).unloading) == ((1,), ())
    assert names(bench) == ["1"]


def test_a_version_0_of_another_tool_is_an_error_before_anything_is_changed(bench):
    publish(bench.session, bench.staged("good two"), NEW)
    (Path(bench.store.uri) / NEW / "0").mkdir()
    with pytest.raises(Refused, match="in the place of the placeholder"):
        load(bench.session, NEW, 1)
    assert desired(bench) is None


@pytest.mark.faults
def test_killed_before_any_operation_a_plain_rerun_leaves_no_placeholder(
    make: Callable, tmp_path: Path, monkeypatch, tell
):
    # Processes die here, not machines: what was written is there, so syncing would only cost time.
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    points = 0
    for at in range(1000):
        (tmp_path / str(at)).mkdir()
        bench = make(tmp_path / str(at))
        served = bench.promoted("good one")

        def watch(bench=bench, served=served) -> None:
            assert bench.answers() == [served, served], MODEL

        try:
            first_deploy(bench, fused(bench.session, Fuse(at, watch)))
        except Killed:
            points += 1
            watch()
            first_deploy(bench, bench.session)
            check_ended(bench, loaded=True)
        else:
            check_ended(bench, loaded=True)
            break
    assert points > 30
    tell(f"first deploy of a new model: killed before {points} operations, 0 violations")
