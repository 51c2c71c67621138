"""A deferrable load on a store that sync agents copy versions from: no worker is held while they do."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest
from airflow.sdk._shared.module_loading import import_string
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from airflow.sdk.serde import deserialize, serialize

from s3_server import ACCESS_KEY, SECRET, moto_server
from tfs_deploy import LoadModelVersionOperator, PublishModelOperator
from tfs_deploy.deployment import sync_agents, sync_requests
from tfs_deploy.deployment.agent_wait import AgentWait
from tfs_deploy.deployment.sync_agents import AgentErrorKind, AgentProblem, AgentReport
from tfs_deploy.errors import DeadlineExceeded
from tfs_deploy.hooks.tf_serving import TFServingHook
from tfs_deploy.jsonable import to_json
from tfs_deploy.names import PLACEHOLDER
from tfs_deploy.store.open import open_store
from tfs_deploy.triggers.sync_agents import SyncAgentsTrigger, retry_seconds

pytestmark = pytest.mark.airflow


@pytest.fixture
def operator(group, context) -> LoadModelVersionOperator:
    published = PublishModelOperator(task_id="p", model="half", saved_model=group.staged()).execute(context)
    return LoadModelVersionOperator(task_id="l", model="half", version=published, deferrable=True, wait_seconds=100.0)


def report(group, *held: int, problems: tuple[AgentProblem, ...] = (), at: datetime | None = None) -> None:
    """Write the report of an agent, which always has the placeholder: that is part of its package."""
    documents = open_store(str(group.store)).documents
    key = sync_agents.key("default", "one")
    found = documents.read(key)
    at = at or datetime.now(timezone.utc)
    body = AgentReport("one", "default", at.isoformat(), "x", held={"half": (PLACEHOLDER, *held)}, problems=problems)
    documents.write(key, to_json(body), expected=found.tag if found else None)


def asked_for(group) -> list[int]:
    return [each.version for each in sync_requests.read(open_store(str(group.store)).documents, "default")[0].versions]


def deferred_by(work) -> TaskDeferred:
    """Return how the task defers, its kwargs as they come back from the database."""
    with pytest.raises(TaskDeferred) as caught:
        work()
    path, kwargs = caught.value.trigger.serialize()
    assert import_string(path)(**deserialize(serialize(kwargs)))
    return caught.value


def again(operator, context, deferred: TaskDeferred):
    kwargs = deserialize(serialize(deferred.kwargs))
    return lambda: getattr(operator, deferred.method_name)(context, {"status": "poll"}, **kwargs)


def test_a_transfer_holds_no_worker(group, context, operator) -> None:
    report(group)
    first = deferred_by(lambda: operator.execute(context))
    assert isinstance(first.trigger, SyncAgentsTrigger)
    assert first.method_name == "execute_poll"
    assert asked_for(group) == [1]
    second = deferred_by(again(operator, context, first))
    assert isinstance(second.trigger, SyncAgentsTrigger)
    assert second.kwargs["since"] == first.kwargs["since"], "the wait does not begin anew"
    assert (first.kwargs["polls"], second.kwargs["polls"]) == (1, 2)
    report(group, 1)
    third = deferred_by(again(operator, context, second))
    assert third.method_name == "execute_complete"
    assert asked_for(group) == []


def test_the_wait_has_an_end_that_counts_from_its_beginning(group, context, operator) -> None:
    report(group)
    first = deferred_by(lambda: operator.execute(context))
    first.kwargs["since"] -= 101.0
    with pytest.raises(DeadlineExceeded, match="one: busy"):
        again(operator, context, first)()
    assert asked_for(group) == []


def test_an_agent_whose_clock_is_wrong_is_known_by_its_changes_from_look_to_look(group, context, operator) -> None:
    report(group)
    first = deferred_by(lambda: operator.execute(context))
    report(group, at=datetime.now(timezone.utc) - timedelta(days=1))
    second = deferred_by(again(operator, context, first))
    assert isinstance(second.trigger, SyncAgentsTrigger)


def test_a_version_that_is_damaged_in_the_store_is_rejected(group, context, operator) -> None:
    report(group)
    first = deferred_by(lambda: operator.execute(context))
    report(group, problems=(AgentProblem(AgentErrorKind.CORRUPT, "It is damaged.", "half", 1, attempts=3),))
    with pytest.raises(AirflowFailException, match=r"It is damaged\."):
        again(operator, context, first)()
    assert asked_for(group) == []
    assert open_store(str(group.store)).versions("half") == ()


def fire(waiting: SyncAgentsTrigger) -> tuple[str, float]:
    """Run a trigger as the triggerer does; return the status of its one event, and the seconds until then."""

    async def events() -> list[dict[str, str]]:
        return [event.payload async for event in waiting.run()]

    begun = time.monotonic()
    (payload,) = asyncio.run(events())
    json.dumps(payload)
    return payload["status"], time.monotonic() - begun


def test_the_trigger_fires_when_the_agent_reports_the_version(group, context, operator) -> None:
    report(group)
    deferred = deferred_by(lambda: operator.execute(context))
    reporting = threading.Timer(0.5, report, (group, 1))
    reporting.start()
    assert fire(deferred.trigger)[0] == "held"
    reporting.join()
    assert deferred_by(again(operator, context, deferred)).method_name == "execute_complete"


def test_the_trigger_leaves_what_it_cannot_decide_to_a_worker(group, context, operator) -> None:
    report(group)
    deferred = deferred_by(lambda: operator.execute(context))
    report(group, problems=(AgentProblem(AgentErrorKind.CORRUPT, "It is damaged.", "half", 1, attempts=3),))
    status, seconds = fire(deferred.trigger)
    assert status == "poll"
    assert seconds >= 1.0


def test_a_triggerer_that_reads_another_store_delays_the_load_and_does_not_end_it(group, context, operator) -> None:
    report(group)
    deferred = deferred_by(lambda: operator.execute(context))
    (group.folder / "not mounted").mkdir()
    deferred.trigger.store = str(group.folder / "not mounted")
    status, seconds = fire(deferred.trigger)
    assert status == "poll"
    assert seconds >= 1.0
    report(group, 1)
    assert deferred_by(again(operator, context, deferred)).method_name == "execute_complete"


def test_the_pause_before_a_worker_polls_again_grows() -> None:
    assert [retry_seconds(polls) for polls in (1, 2, 3)] == [1.0, 1.5, 2.25]
    assert retry_seconds(100) == 15.0


def test_the_kwargs_of_the_trigger_hold_no_more_than_the_id_of_the_connection(group, context, operator) -> None:
    group.connect(group.target, tls=False, server_name="a-secret-name")
    report(group)
    kwargs = json.dumps(deferred_by(lambda: operator.execute(context)).trigger.serialize())
    assert "a-secret-name" not in kwargs
    assert group.target not in kwargs


def test_the_trigger_reads_a_store_in_s3_with_the_credentials_of_the_aws_connection(group, monkeypatch) -> None:
    with moto_server() as s3:
        store = f"s3://{s3.new_bucket()}/models"
        aws = {"conn_type": "aws", "login": ACCESS_KEY, "password": SECRET}
        where = {"endpoint_url": s3.url, "region_name": "us-east-1"}
        monkeypatch.setenv("AIRFLOW_CONN_CLOUD", json.dumps({**aws, "extra": where}))
        group.connect(group.target, store=store, aws_conn_id="cloud", model_root="/models")
        with TFServingHook().session() as session:
            sync_requests.request_version(session, "half", 1)
            agent = AgentReport("one", "default", session.clock.now().isoformat(), "x", held={"half": (1,)})
            session.store.documents.write(sync_agents.key("default", "one"), to_json(agent), expected=None)
            progress = AgentWait(session, "half", 1).progress
            waiting = SyncAgentsTrigger.on_session(
                session, "half", 1, progress, tf_serving_conn_id=TFServingHook.default_conn_name
            )
        assert SECRET not in json.dumps(waiting.serialize())
        assert fire(waiting)[0] == "held"
