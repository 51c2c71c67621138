"""Two deployers at once, each test with the one interleaving in which a step has to look twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from deployment.fuse import Fuse, Fused
from deployment.memory_group import MemoryGroup
from deployment.scheduler import Deployer, Turn
from deployment.test_lease import with_documents
from deployment_names import MODEL
from saved_model_files import write_saved_model
from tfs_deploy.deployment import desired_state
from tfs_deploy.deployment.apply import send
from tfs_deploy.deployment.drift import require_no_drift
from tfs_deploy.deployment.modes.labels import deploy
from tfs_deploy.deployment.records import Action, history
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.load import load, wait_until_available
from tfs_deploy.deployment.steps.publish import publish
from tfs_deploy.deployment.steps.reconcile import reconcile
from tfs_deploy.deployment.steps.reject import reject
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.deployment.unload import drop_placeholder, unload
from tfs_deploy.errors import LoadFailed
from tfs_deploy.names import PLACEHOLDER
from tfs_deploy.validation.config import Gates


def once(action: Callable[[], object]) -> Callable[[], None]:
    """Return a function that calls `action` the first time only."""
    calls: list[Callable[[], object]] = [action]

    def call() -> None:
        if calls:
            calls.pop()()

    return call


def before_write(session: GroupSession, document: str, action: Callable[[], object]) -> GroupSession:
    """Return a session that does `action` before it first writes a document whose key holds `document`."""
    act = once(action)
    return with_documents(session, lambda name, key: act() if name == "write" and document in key else None)


def recorded(bench, action: Action) -> list[int]:
    """Return the versions of the records of `action`."""
    return [record.version for record in history(bench.store.documents, "default", MODEL, action=action)]


def desired(bench) -> desired_state.DesiredModel | None:
    return desired_state.read(bench.store.documents, bench.group).models.get(MODEL)


def test_a_reconciliation_sends_what_is_desired_when_it_sends_and_undoes_no_rollback(bench):
    old, _ = bench.promoted("good one"), bench.promoted("good two")
    bench.servers[0].labels[MODEL]["stable"] = old  # by hand
    sent: list[int] = []

    def roll_back() -> None:
        rollback(bench.session, MODEL)
        sent.extend(len(server.requests) for server in bench.servers)

    reconcile(before_write(bench.session, "default/lease.json", roll_back))
    assert bench.answers() == [old, old]
    for server, start in zip(bench.servers, sent, strict=True):
        reloads = [message for name, message in server.requests[start:] if name == "HandleReloadConfigRequest"]
        for message in reloads:
            assert dict(message.config.model_config_list.config[0].version_labels)["stable"] == old


def test_what_another_deployer_changes_during_a_reconciliation_is_no_difference(bench):
    bench.promoted("good one")
    two = bench.validated("good two")
    fuse = Fuse(10_000, once(lambda: bench.promoted("good two")))
    clients = {target: Fused(client, fuse) for target, client in bench.session.clients.items()}
    assert reconcile(replace(bench.session, clients=clients)).replicas == {}
    assert bench.answers() == [two, two]


def test_two_first_versions_of_a_model_load_at_once(bench):
    one, two = bench.publish("good one"), bench.publish("good two")

    def load_other() -> None:
        load(bench.session, MODEL, two)

    # Before it asks for the versions of a model that the desired state, as it was read, does not know.
    fuse = Fuse(10_000, once(load_other))
    clients = {target: Fused(client, fuse) for target, client in bench.session.clients.items()}
    load(replace(bench.session, clients=clients), MODEL, one)
    wait_until_available(bench.session, MODEL, one)
    assert desired(bench).versions == (one, two)


def test_a_change_that_is_sent_while_another_deployer_compares_is_no_drift(bench):
    version = bench.promoted("good one")
    state = desired_state.change(bench.session, MODEL, lambda _, model: model.with_labels({}).with_unloading(version))
    send_it = once(lambda: send(bench.session, state.generation, purpose="undeployment"))
    slow = with_documents(bench.session, lambda name, key: send_it() if key.endswith("sent.json") else None)
    require_no_drift(slow)
    assert bench.stable() == [None, None]


def test_two_publishes_of_the_same_bytes_are_one_record(bench):
    staged = bench.staged("good one")
    slow = before_write(bench.session, "/records/", lambda: publish(bench.session, staged, MODEL))
    assert publish(slow, staged, MODEL).version.version == 1
    assert recorded(bench, Action.PUBLISHED) == [1]


def test_a_rejection_leaves_the_files_of_a_placeholder_that_another_deployer_unloads(bench):
    one, two = bench.publish("wrong"), bench.publish("good two")
    for version in (one, two):
        load(bench.session, MODEL, version)
    placeholder = bench.folder / "store" / MODEL / str(PLACEHOLDER)

    def begin_to_unload() -> None:
        desired_state.change(bench.session, MODEL, lambda _, model: model.with_unloading(PLACEHOLDER))

    reject(before_write(bench.session, "/records/", begin_to_unload), MODEL, one, reason="wrong answers")
    assert placeholder.is_dir(), "the replicas still serve it"
    drop_placeholder(bench.session, MODEL)
    assert not placeholder.exists()
    assert desired(bench).unloading == ()


def test_a_deploy_ends_a_rejection_that_was_interrupted(bench):
    live = bench.promoted("good one")
    wrong = bench.validated("wrong")
    unload(bench.session, MODEL, (wrong,), purpose="a rejection that dies before it withdraws the version")
    with pytest.raises(LoadFailed, match="is already being rejected"):
        deploy(bench.session, bench.staged("wrong"), MODEL, Gates())
    assert bench.store.versions(MODEL) == (live,)
    assert recorded(bench, Action.REJECTED) == [wrong]
    assert desired(bench).unloading == ()


def test_a_reconciliation_forgets_versions_that_were_unloaded_and_removed(bench):
    live = bench.promoted("good one")
    wrong = bench.validated("wrong")
    unload(bench.session, MODEL, (wrong,), purpose="a rejection that dies after it has withdrawn the version")
    bench.store.withdraw(MODEL, wrong, "wrong answers")
    reconcile(bench.session)
    assert desired(bench).unloading == ()
    assert desired(bench).versions == (live,)


def test_many_deployers_that_wait_for_the_lease_of_a_group_share_few_reloads(tmp_path, tell):
    staged = {name: write_saved_model(tmp_path / name, name) for name in ("good one", "good two")}
    models = [f"model_{number:02}" for number in range(20)]
    group = MemoryGroup(tmp_path / "models.config")
    with group.scheduler.in_charge():
        for model in models:
            load(
                group.session("preparation"),
                model,
                publish(group.session("preparation"), staged["good one"], model).version.version,
            )
            wait_until_available(group.session("preparation"), model, 1)
            publish(group.session("preparation"), staged["good two"], model)
        before = len(reloads(group))
        deployers = [
            Deployer(group.scheduler, lambda model=model: load(group.session(model), model, 2)) for model in models
        ]
        group.scheduler.run(deployers, [Turn(number, 3) for _ in range(100) for number in range(len(models))])
    assert [deployer.error for deployer in deployers if deployer.error] == []
    listed = {name: model.versions for name, model in group.state().models.items()}
    assert listed == dict.fromkeys(models, (1, 2))
    sent = len(reloads(group)) - before
    tell(f"{len(models)} loads at once in {sent} reloads")
    assert sent <= len(models) // 2


def reloads(group: MemoryGroup) -> list[object]:
    """Return the reloads that the first replica was asked for."""
    return [message for name, message in group.servers[0].requests if name == "HandleReloadConfigRequest"]
