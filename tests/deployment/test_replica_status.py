"""What the replicas serve, asked over blocking clients in a small group and over asyncio clients in a large one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from deployment_names import MODEL
from fakes import AsyncFakeClient
from tfs_deploy.deployment.replica_status import GroupStatus, observe, observe_leniently, observe_models
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import Unreachable

LABELS = ("stable", "previous", "canary")


@pytest.fixture(params=[2, 17], ids=["small group", "large group"])
def bench(request, make, tmp_path):
    bench = make(tmp_path, replicas=request.param)
    servers = {server.target: server for server in bench.servers}
    bench.session = replace(bench.session, connect_aio=lambda target: AsyncFakeClient(servers[target]))
    bench.promoted("good 1")
    bench.promoted("good 2")
    return bench


def test_every_replica_is_asked_in_the_order_of_the_group(bench) -> None:
    status = observe(bench.session, MODEL, LABELS)

    assert [replica.target for replica in status.replicas] == list(bench.group.replicas)
    assert status.available_everywhere() == {1, 2}
    assert [replica.labels for replica in status.replicas] == [{"stable": 2, "previous": 1}] * len(bench.servers)


def test_each_replica_gets_one_status_and_one_metadata_per_label_and_model(bench) -> None:
    before = [len(server.requests) for server in bench.servers]

    statuses = observe_models(bench.session, {MODEL: LABELS, "other": LABELS})

    assert statuses["other"].replicas[0].versions == ()
    for server, count in zip(bench.servers, before, strict=True):
        # A model that the server does not know has no labels.
        assert sorted(name for name, _ in server.requests[count:]) == ["GetModelMetadata"] * 3 + ["GetModelStatus"] * 2


@pytest.mark.parametrize("ask", [observe_leniently, lambda *args: observe_models(args[0], {args[1]: args[2]})[MODEL]])
def test_a_replica_that_is_away_has_an_error_in_its_row(
    bench, ask: Callable[[GroupSession, str, tuple[str, ...]], GroupStatus]
) -> None:
    bench.servers[1].unreachable = True

    status = ask(bench.session, MODEL, LABELS)

    assert [bool(replica.error) for replica in status.replicas] == [index == 1 for index in range(len(bench.servers))]
    assert bench.servers[1].target in status.replicas[1].error
    with pytest.raises(Unreachable, match=bench.servers[1].target):
        observe(bench.session, MODEL, LABELS)


def test_a_replica_that_is_away_is_asked_for_one_model_only(bench) -> None:
    server = bench.servers[1]
    server.fail_next("GetModelStatus", "UNAVAILABLE", times=9)
    before = len(server.requests)

    statuses = observe_models(bench.session, {MODEL: LABELS, "other": LABELS})

    assert {name for name, _ in server.requests[before:]} == {"GetModelStatus"}
    assert {request.model_spec.name for _, request in server.requests[before:]} == {MODEL}
    assert all(status.replicas[1].error for status in statuses.values())


def test_an_error_about_one_model_hides_no_other_model(bench) -> None:
    bench.servers[1].fail_next("GetModelStatus", "PERMISSION_DENIED", "not this model")

    statuses = observe_models(bench.session, {"other": (), MODEL: ("stable",)})

    assert "not this model" in statuses["other"].replicas[1].error
    assert statuses[MODEL].replicas[1].labels == {"stable": 2}


def test_only_the_replicas_of_the_session_are_asked(bench) -> None:
    clients = dict(list(bench.session.clients.items())[1:])
    status = observe(replace(bench.session, clients=clients), MODEL, ())
    assert [replica.target for replica in status.replicas] == list(clients)
