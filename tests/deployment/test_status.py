"""The step `status`: what it compares, also while a deployer changes what the group should serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deployment_names import MODEL
from tfs_deploy.deployment import desired_state, replica_status
from tfs_deploy.deployment.differences import DifferenceKind
from tfs_deploy.deployment.steps import status as status_step
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.retire import retire
from tfs_deploy.deployment.steps.status import status
from tfs_deploy.serving.config import ModelEntry, to_proto
from tfs_deploy.serving.group import Mode


@pytest.fixture
def during_the_sweep(monkeypatch) -> Callable[[Callable[[], object]], list[int]]:
    """Return a function that lets `change` happen once the replicas have answered; its list counts the sweeps."""
    sweeps: list[int] = []

    def install(change: Callable[[], object]) -> list[int]:
        def observe(*arguments: Any) -> Any:
            observed = replica_status.observe_models(*arguments)
            sweeps.append(len(sweeps))
            if len(sweeps) == 1:
                change()
            return observed

        monkeypatch.setattr(status_step, "observe_models", observe)
        return sweeps

    return install


def test_a_promotion_during_the_sweep_is_no_drift(bench, during_the_sweep) -> None:
    bench.promoted("good one")
    new = bench.validated("good two")
    sweeps = during_the_sweep(lambda: promote(bench.session, MODEL, new))

    report = status(bench.session)

    assert (report.differences, report.drift, report.remedy) == ((), "", "")
    assert report.models[MODEL].desired.labels["stable"] == new
    assert len(sweeps) == 2


def test_a_version_that_is_deleted_during_the_sweep_was_published(bench, during_the_sweep) -> None:
    for behaviour in ("good one", "good two", "good three", "good four"):
        bench.promoted(behaviour)
    during_the_sweep(lambda: retire(bench.session, MODEL, keep=0))

    assert status(bench.session).differences == ()
    assert len(bench.store.versions(MODEL)) < 4


def test_the_replicas_are_asked_once_if_nothing_changes(bench, during_the_sweep) -> None:
    bench.promoted("good one")
    sweeps = during_the_sweep(lambda: None)

    report = status(bench.session)

    assert report.differences == ()
    assert len(sweeps) == 1


def test_replicas_that_are_away_are_named_beside_the_drift_of_the_others(bench) -> None:
    bench.promoted("good one")
    bench.promoted("good two")
    bench.servers[0].unreachable = True
    bench.servers[1].labels[MODEL]["stable"] = 1

    report = status(bench.session, MODEL)

    assert report.unreachable == (bench.servers[0].target,)
    assert [difference.kind for difference in report.differences] == [
        DifferenceKind.LABEL_ON_OTHER_VERSION,
        DifferenceKind.UNREACHABLE,
    ]
    assert bench.servers[1].target in report.drift
    assert "tfs-deploy reconcile" in report.remedy


def test_a_version_that_is_on_its_way_out_is_no_drift(bench) -> None:
    bench.promoted("good one")
    version = bench.validated("good two")
    state = desired_state.change(
        bench.session, MODEL, lambda _, model: None if model is None else model.with_unloading(version)
    )
    bench.store.delete(MODEL, version)

    assert state.models[MODEL].unloading == (version,)
    report = status(bench.session)

    assert version in report.models[MODEL].observed.available_everywhere()
    assert report.differences == ()


def test_servers_that_choose_their_version_do_not_drift(make, tmp_path) -> None:
    bench = make(tmp_path, mode=Mode.LATEST)
    for server in bench.servers:
        server.put("/elsewhere", 5)
        bench.session.clients[server.target].reload(to_proto([ModelEntry(MODEL, "/elsewhere", (5,), {})]), timeout=1.0)

    report = status(bench.session, MODEL)

    assert report.models[MODEL].observed.available_everywhere() == {5}
    assert (report.mode, report.differences) == ("latest", ())
