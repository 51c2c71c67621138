"""A model, or a version that is live by mistake, is taken out of a group; what others serve stays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployment_names import MODEL
from tfs_deploy.deployment import desired_state
from tfs_deploy.deployment.records import Action, history, version_at
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.deployment.steps.status import status
from tfs_deploy.deployment.steps.undeploy import undeploy
from tfs_deploy.errors import NotFound, Refused


def test_a_model_is_unloaded_everywhere_and_its_files_stay(bench) -> None:
    bench.promoted("good one")
    bench.promoted("good two")
    done = undeploy(bench.session, MODEL, reason="wrong name")
    assert (done.versions, done.withdrawn) == ((1, 2), ())
    assert (done.record.action, done.record.previous, done.record.reason) == (Action.UNDEPLOYED, 2, "wrong name")
    assert bench.stable() == [None, None]
    assert {server.state(MODEL, version) for server in bench.servers for version in (1, 2)} == {"END"}
    assert bench.store.versions(MODEL) == (1, 2)
    assert MODEL not in desired_state.read(bench.store.documents, bench.group).models
    assert version_at(bench.store.documents, "default", MODEL, bench.clock.now()).version is None
    assert status(bench.session).drift == ""


def test_a_first_version_that_is_live_by_mistake_goes_and_another_model_stays(bench) -> None:
    bench.promoted("good one")
    done = undeploy(bench.session, MODEL, 1, withdraw=True)
    assert done.withdrawn == (1,)
    assert bench.store.versions(MODEL) == ()
    assert bench.promoted("good two") == 2, "its number is not used again"


def test_what_can_be_rolled_back_is_not_undeployed(bench) -> None:
    bench.promoted("good one")
    bench.promoted("good two")
    with pytest.raises(Refused, match="tfs-deploy rollback"):
        undeploy(bench.session, MODEL, 2)
    rollback(bench.session, MODEL)
    done = undeploy(bench.session, MODEL, 2)
    assert done.record.action is Action.RETIRED
    assert bench.answers() == [1, 1]
    assert version_at(bench.store.documents, "default", MODEL, bench.clock.now()).version == 1
    assert desired_state.read(bench.store.documents, bench.group).models[MODEL].labels == {"stable": 1}


def test_what_another_group_serves_is_not_withdrawn(bench) -> None:
    bench.promoted("good one")
    state = desired_state.read(bench.store.documents, bench.group)
    other = replace(bench.session, group=replace(bench.group, name="staging", startup_config=None))
    desired_state.change(other, MODEL, lambda _, model: state.models[MODEL])
    with pytest.raises(Refused, match="group 'staging'"):
        undeploy(bench.session, MODEL, withdraw=True)
    assert bench.answers() == [1, 1]
    assert undeploy(bench.session, MODEL).versions == (1,)
    assert bench.store.versions(MODEL) == (1,)


def test_what_is_not_served_is_the_callers_mistake(bench) -> None:
    bench.promoted("good one")
    for arguments in (("nobody",), (MODEL, 7)):
        with pytest.raises(NotFound):
            undeploy(bench.session, *arguments)
    assert bench.answers() == [1, 1]


def test_a_second_undeployment_after_an_interruption_records_it_once(bench) -> None:
    bench.promoted("good one")
    undeploy(bench.session, MODEL)
    with pytest.raises(NotFound):
        undeploy(bench.session, MODEL)
    actions = [entry.action for entry in history(bench.store.documents, "default", MODEL)]
    assert actions.count(Action.UNDEPLOYED) == 1
