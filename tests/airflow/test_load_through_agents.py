"""A deferrable load on a store that sync agents bring versions from: no worker is held while they do."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta, timezone

import pytest
from airflow.sdk._shared.module_loading import import_string
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from airflow.sdk.serde import deserialize, serialize

from tfs_deploy import LoadModelVersionOperator, PublishModelOperator
from tfs_deploy.deployment import sync_agents, sync_requests
from tfs_deploy.deployment.sync_agents import AgentErrorKind, AgentProblem, AgentReport
from tfs_deploy.errors import DeadlineExceeded
from tfs_deploy.jsonable import to_json
from tfs_deploy.store.open import open_store
from tfs_deploy.triggers.group_wait import PauseTrigger

pytestmark = pytest.mark.airflow


@pytest.fixture
def operator(group, context) -> LoadModelVersionOperator:
    published = PublishModelOperator(task_id="p", model="half", saved_model=group.staged()).execute(context)
    return LoadModelVersionOperator(task_id="l", model="half", version=published, deferrable=True, wait_seconds=100.0)


def report(group, *held: int, problems: tuple[AgentProblem, ...] = (), at: datetime | None = None) -> None:
    """Say something in the name of an agent."""
    documents = open_store(str(group.store)).documents
    key = sync_agents.key("default", "one")
    found = documents.read(key)
    at = at or datetime.now(timezone.utc)
    body = AgentReport("one", "default", at.isoformat(), "x", held={"half": held}, problems=problems)
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
    assert isinstance(first.trigger, PauseTrigger)
    assert first.method_name == "execute_poll"
    assert asked_for(group) == [1]
    second = deferred_by(again(operator, context, first))
    assert isinstance(second.trigger, PauseTrigger)
    assert second.kwargs["since"] == first.kwargs["since"], "the wait does not begin anew"
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
    assert isinstance(second.trigger, PauseTrigger)


def test_a_version_that_is_damaged_in_the_store_is_rejected(group, context, operator) -> None:
    report(group)
    first = deferred_by(lambda: operator.execute(context))
    report(group, problems=(AgentProblem(AgentErrorKind.CORRUPT, "It is damaged.", "half", 1, attempts=3),))
    with pytest.raises(AirflowFailException, match=r"It is damaged\."):
        again(operator, context, first)()
    assert asked_for(group) == []
    assert open_store(str(group.store)).versions("half") == ()


def test_a_pause_ends_at_its_time() -> None:
    async def fire(until: float) -> list[object]:
        return [event.payload async for event in PauseTrigger(until=until).run()]

    until = time.time() + 0.2
    assert asyncio.run(fire(until)) == [{"status": "poll"}]
    assert time.time() >= until
    assert asyncio.run(fire(0.0)) == [{"status": "poll"}], "one that is over ends at once"
