"""The bake in Airflow: in a worker, in the triggerer, and how the task ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.sdk._shared.module_loading import import_string
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from airflow.sdk.serde import deserialize, serialize

from deployment.fake_gateway import Gateway, web_server
from tfs_deploy import (
    BakeModelVersionOperator,
    LabelModelVersionOperator,
    LoadModelVersionOperator,
    PromoteModelVersionOperator,
    PublishModelOperator,
    ValidateModelVersionOperator,
)
from tfs_deploy.errors import Inconclusive

pytestmark = pytest.mark.airflow


class Site:
    """A group with version 1 live and version 2 as canary, and a gateway that serves after each reading."""

    def __init__(self) -> None:
        self.gateway = Gateway("half")
        self.traffic: Callable[[], None] = lambda: None
        self.keys: list[str | None] = []
        self.address = ""

    def answer(self, request: Any) -> tuple[int, str]:
        self.keys.append(request.headers["X-API-Key"])
        text = self.gateway.text()
        self.traffic()
        return 200, text


@pytest.fixture
def site(group, context) -> Iterator[Site]:
    for behaviour in ("good", "good again"):
        version = PublishModelOperator(task_id="p", model="half", saved_model=group.staged(behaviour)).execute(context)
        for kind in (LoadModelVersionOperator, ValidateModelVersionOperator):
            kind(task_id="t", model="half", version=version).execute(context)
        if behaviour == "good":
            PromoteModelVersionOperator(task_id="t", model="half", version=version).execute(context)
    LabelModelVersionOperator(task_id="t", model="half", version_label="canary", version=2).execute(context)
    site = Site()
    with web_server(site.answer) as site.address:
        yield site


def bake(site: Site, **more: Any) -> BakeModelVersionOperator:
    return BakeModelVersionOperator(task_id="b", model="half", metrics=site.address, bake_seconds="0.2", **more)


def run(operator: BakeModelVersionOperator, context: Any) -> dict[str, Any]:
    """Run the operator, and its trigger as the triggerer does; everything goes through the database's format."""
    if not operator.deferrable:
        return operator.execute(context)
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(context)
    path, kwargs = caught.value.trigger.serialize()
    trigger = import_string(path)(**deserialize(serialize(kwargs)))

    async def events() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    (event,) = asyncio.run(events())
    json.dumps(event)
    return operator.execute_complete(context, event, **deserialize(serialize(caught.value.kwargs)))


@pytest.fixture(params=[False, True], ids=["worker", "triggerer"])
def deferrable(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_canary_that_passes_keeps_its_label(group, context, site, deferrable, monkeypatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_GATEWAY", json.dumps({"conn_type": "http", "password": "a-key"}))
    site.traffic = lambda: site.gateway.serve(stable=500, canary=200)
    done = run(bake(site, deferrable=deferrable, gateway_conn_id="gateway"), context)
    assert (done["verdict"], done["canary"], done["stable"], done["label_removed"]) == ("pass", 2, 1, False)
    assert group.server.labels["half"] == {"stable": 1, "canary": 2}
    assert set(site.keys) == {"a-key"}


def test_a_canary_that_fails_fails_the_task_and_loses_its_label(group, context, site, deferrable) -> None:
    site.traffic = lambda: site.gateway.serve(stable=500, canary=100, broken=100)
    with pytest.raises(AirflowFailException, match=r"failed 100 of 200 requests.*Label canary was removed"):
        run(bake(site, deferrable=deferrable), context)
    assert group.server.labels["half"] == {"stable": 1}


def test_too_little_traffic_is_retried(group, context, site, deferrable) -> None:
    with pytest.raises(Inconclusive, match="The canary had 0 requests"):
        run(bake(site, deferrable=deferrable), context)
    assert group.server.labels["half"] == {"stable": 1, "canary": 2}


def test_a_triggerer_that_cannot_watch_decides_nothing(group, context, site, monkeypatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_GATEWAY", json.dumps({"conn_type": "http", "password": "a-key"}))
    with pytest.raises(TaskDeferred) as caught:
        bake(site, deferrable=True, gateway_conn_id="gateway").execute(context)
    monkeypatch.delenv("AIRFLOW_CONN_GATEWAY")

    async def events() -> list[Any]:
        return [event.payload async for event in caught.value.trigger.run()]

    (event,) = asyncio.run(events())
    assert event["verdict"] == "inconclusive"
    assert "a-key" not in json.dumps(caught.value.trigger.serialize())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": ""}, "no source of metrics"),
        ({"bake_seconds": "long"}, "bake_seconds is 'long'"),
        ({"limits": {"min_request": 1}}, "min_request"),
        ({"limits": {"min_requests": "0"}}, "min_requests of the bake is 0"),
        ({"version_label": "stable"}, "is reserved"),
    ],
)
def test_bad_input_fails_at_once(group, context, arguments: dict[str, Any], message: str) -> None:
    given = {"metrics": "http://gateway/metrics", **arguments}
    with pytest.raises(AirflowFailException, match=message):
        BakeModelVersionOperator(task_id="b", model="half", **given).execute(context)
