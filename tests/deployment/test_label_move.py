"""A promotion that names some replicas of a group only: the others would be left behind, or restart unvalidated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deployment_names import MODEL
from fakes import FakeClient, FakeModelServer
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.load import load, wait_until_available
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.reconcile import reconcile
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.deployment.steps.validate import validate
from tfs_deploy.errors import Drift, Refused
from tfs_deploy.serving.config import ModelEntry, to_proto, to_text
from tfs_deploy.serving.group import are_discovered
from tfs_deploy.validation.config import Gates


@pytest.fixture
def first_only(bench) -> GroupSession:
    """Return the group as somebody names it who forgot its second replica."""
    servers = {server.target: server for server in bench.servers}
    first = bench.group.replicas[:1]
    group = replace(bench.group, replicas=first)
    clients = {first[0]: bench.session.clients[first[0]]}
    return replace(bench.session, group=group, clients=clients, reach=reaching(servers))


def reaching(servers: dict[str, FakeModelServer]) -> Callable[[str], FakeClient]:
    return lambda target: FakeClient(servers[target])


def go(session: GroupSession, version: int) -> None:
    load(session, MODEL, version)
    wait_until_available(session, MODEL, version)
    validate(session, MODEL, version, Gates())


def test_a_replica_that_was_not_named_and_answers_stable_refuses_the_promotion(bench, first_only):
    old = bench.promoted("good one")
    new = bench.publish("good two")
    go(first_only, new)
    with pytest.raises(Refused, match=r"replica-2:8500 .* from version 1, and it was not named"):
        promote(first_only, MODEL, new)
    assert bench.answers() == [old, old]


def test_nor_may_a_replica_be_left_out_that_was_validated(bench, first_only):
    old = bench.promoted("good one")
    new = bench.validated("good two")
    with pytest.raises(Refused, match=r"replica-2:8500 .* was not named"):
        promote(first_only, MODEL, new)
    assert bench.answers() == [old, old]


def test_a_replica_that_is_gone_is_none_any_more(bench, first_only):
    bench.promoted("good one")
    new = bench.publish("good two")
    bench.servers[1].unreachable = True
    go(first_only, new)
    assert promote(first_only, MODEL, new).replicas == ("replica-1:8500",)


def test_going_back_names_who_was_left_out(bench, first_only, caplog):
    old = bench.promoted("good one")
    new = bench.promoted("good two")
    record = rollback(first_only, MODEL)
    assert (record.version, record.replicas, record.away) == (old, ("replica-1:8500",), ("replica-2:8500",))
    assert "replica-2:8500 was not named" in caplog.text
    assert bench.answers() == [old, new]
    assert reconcile(bench.session).replicas.keys() == {"replica-2:8500"}
    assert bench.answers() == [old, old]


def test_a_replica_under_another_name_is_the_same_replica(bench):
    bench.promoted("good one")
    other_names = {server.target.replace("replica", "alias"): server for server in bench.servers}
    clients = {name: FakeClient(server, name) for name, server in other_names.items()}
    known = {server.target: server for server in bench.servers}
    group = replace(bench.group, replicas=tuple(other_names))
    renamed = replace(bench.session, group=group, clients=clients, reach=reaching(known))
    new = bench.publish("good two")
    go(renamed, new)
    assert promote(renamed, MODEL, new).version == new
    assert bench.answers() == [new, new]


def test_a_resolver_knows_who_is_in_a_group(bench, first_only):
    bench.promoted("good one")
    new = bench.publish("good two")
    resolved = replace(first_only, group=replace(first_only.group, discovered=True))
    go(resolved, new)
    assert promote(resolved, MODEL, new).version == new


@pytest.mark.parametrize(
    ("text", "told"), [("a:1,b:2", False), ("a:1, dns:b:2", True), (("dns:b",), True), (("dns-host:1",), False)]
)
def test_names_that_resolve_to_replicas_are_known(text, told):
    assert are_discovered(text) is told


def test_replicas_are_brought_back_to_what_was_live_before_the_first_deploy(bench):
    """Nothing is proved of that version and the store lacks it, but it is what the group serves."""
    entry = ModelEntry(MODEL, bench.group.base_path(MODEL), (7,), {"stable": 7})
    Path(bench.group.startup_config).write_text(to_text([entry]))
    for server in bench.servers:
        server.put(entry.base_path, 7)
        bench.session.clients[server.target].reload(to_proto([entry]), timeout=1.0)
    bench.servers[1].labels[MODEL].clear()
    version = bench.publish("good one")
    with pytest.raises(Drift, match="tfs-deploy reconcile"):
        load(bench.session, MODEL, version)
    promote(bench.session, MODEL, 7)
    assert bench.stable() == [7, 7]
    load(bench.session, MODEL, version)
    with pytest.raises(Refused, match="never validated"):
        promote(bench.session, MODEL, version)
