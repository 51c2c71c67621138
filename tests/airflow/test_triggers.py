"""Triggers, and the sensor that uses them or waits by itself."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import datetime, timezone
from typing import Any

import pytest
from airflow.sdk._shared.module_loading import import_string
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, TaskDeferred
from airflow.sdk.serde import deserialize, serialize

from tfs_deploy import (
    LoadModelVersionOperator,
    ModelVersionSensor,
    PromoteModelVersionOperator,
    PublishModelOperator,
    ValidateModelVersionOperator,
)
from tfs_deploy.deployment import loaded_since
from tfs_deploy.errors import DeadlineExceeded, LoadFailed, Permanent, Unreachable
from tfs_deploy.store.open import open_store
from tfs_deploy.triggers.group_wait import available, ended_by, require_available
from tfs_deploy.triggers.model_label import ModelLabelTrigger
from tfs_deploy.triggers.model_version import ModelVersionTrigger

pytestmark = pytest.mark.airflow


def trigger(seconds: float = 10.0, **more: Any) -> ModelVersionTrigger:
    given = {
        "tf_serving_conn_id": "tf_serving_default",
        "model": "half",
        "version": 1,
        "deadline": time.time() + seconds,
        "poll_interval": 0.05,
        **more,
    }
    return ModelVersionTrigger(**given)


def label_trigger(seconds: float = 10.0, **more: Any) -> ModelLabelTrigger:
    return ModelLabelTrigger(
        tf_serving_conn_id="tf_serving_default",
        model="half",
        version_label="stable",
        deadline=time.time() + seconds,
        poll_interval=0.05,
        **more,
    )


def fire(waiting: Any) -> dict[str, Any]:
    """Run a trigger as the triggerer does, and return what its one event says."""

    async def events() -> list[Any]:
        return [event.payload async for event in waiting.run()]

    (payload,) = asyncio.run(events())
    json.dumps(payload)
    return payload


def load(group, context, behaviour: str = "good", **more: Any) -> dict[str, Any]:
    published = PublishModelOperator(task_id="p", model="half", saved_model=group.staged(behaviour)).execute(context)
    LoadModelVersionOperator(task_id="l", model="half", version=published, **more).execute(context)
    return published


def promote(context, version: Any) -> None:
    for kind in (ValidateModelVersionOperator, PromoteModelVersionOperator):
        kind(task_id="t", model="half", version=version).execute(context)


@pytest.mark.parametrize(
    "waiting", [trigger(), label_trigger(), label_trigger(version=4)], ids=["version", "label", "label of a version"]
)
def test_a_trigger_comes_back_from_its_kwargs(waiting: Any) -> None:
    path, kwargs = waiting.serialize()
    again = import_string(path)(**deserialize(serialize(kwargs)))
    assert type(again) is type(waiting)
    assert again.serialize() == (path, kwargs)
    json.dumps(kwargs)


def test_kwargs_hold_no_more_than_the_id_of_the_connection(group) -> None:
    group.connect(group.target, tls=False, server_name="a-secret-name")
    assert "a-secret-name" not in json.dumps(trigger().serialize())
    assert group.target not in json.dumps(trigger().serialize())


def test_available(group, context) -> None:
    load(group, context)
    begun = datetime.now(timezone.utc)
    event = fire(trigger())
    (target, moment), *others = event.pop("available_at").items()
    assert (target, others) == (group.target, [])
    assert begun <= datetime.fromisoformat(moment) <= datetime.now(timezone.utc)
    assert event == {"status": "available", "message": "", "remedy": "", "version": 1}


def test_a_deferred_load_drops_the_placeholder_and_notes_since_when_the_version_is_served(group, context) -> None:
    published = PublishModelOperator(task_id="p", model="half", saved_model=group.staged()).execute(context)
    operator = LoadModelVersionOperator(task_id="l", model="half", version=published, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    event = fire(deferred.value.trigger)
    documents = open_store(str(group.store)).documents
    assert loaded_since.read(documents, "default", "half", 1) == {}
    operator.execute_complete(context, event)
    assert loaded_since.read(documents, "default", "half", 1) == event["available_at"]
    (entry,) = group.server.config.model_config_list.config
    assert list(entry.model_version_policy.specific.versions) == [1], "no placeholder is left"


def test_fires_when_the_version_comes(group, context) -> None:
    loading = threading.Timer(0.5, load, (group, context))
    loading.start()
    assert fire(trigger())["status"] == "available"
    loading.join()


def test_failed_quotes_the_server(group, context) -> None:
    with pytest.raises(TaskDeferred):
        load(group, context, "broken", deferrable=True)
    event = fire(trigger())
    assert event["status"] == "failed"
    assert "could not load version 1 of model 'half'" in event["message"]
    assert event["remedy"]


def test_timeout(group) -> None:
    event = fire(trigger(seconds=0.3))
    assert event["status"] == "timeout"
    assert "did not see version 1 of model 'half'" in event["message"]


def test_a_deadline_that_passed_while_the_triggerer_was_down(group, context) -> None:
    load(group, context)
    assert fire(trigger(seconds=-60))["status"] == "available"
    assert fire(trigger(seconds=-60, version=9))["status"] == "timeout"


def test_unreachable(group) -> None:
    group.connect("127.0.0.1:1")
    event = fire(trigger(seconds=0.3))
    assert event["status"] == "unreachable"
    assert "127.0.0.1:1" in event["message"]


def test_a_wrong_connection(group) -> None:
    group.connect("a:b:c")
    assert fire(trigger())["status"] == "error"


def test_label(group, context) -> None:
    promote(context, load(group, context))
    assert fire(label_trigger()) == available(1)
    assert fire(label_trigger(version=1)) == available(1)
    event = fire(label_trigger(seconds=0.2, version=2))
    assert event["status"] == "timeout"
    assert f"{group.target}: 1" in event["message"]


@pytest.mark.parametrize("kind", [LoadFailed, DeadlineExceeded, Unreachable, Permanent])
def test_an_event_stands_for_its_error(kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"What happened\. What to do\."):
        require_available(ended_by(kind("What happened.", "What to do."), 1))


def sensor(**more: Any) -> ModelVersionSensor:
    given = {"task_id": "s", "model": "half", "poke_interval": 0.05, "timeout": 0.3, "deferrable": False, **more}
    return ModelVersionSensor(**given)


def test_sensor_waits_in_the_worker(group, context) -> None:
    loading = threading.Timer(0.3, load, (group, context))
    loading.start()
    assert sensor(version=1, timeout=10).execute(context) == {"model": "half", "version": 1}
    loading.join()
    with pytest.raises(AirflowSensorTimeout):
        sensor(version=2).execute(context)


def test_sensor_on_a_label(group, context) -> None:
    with pytest.raises(AirflowSensorTimeout):
        sensor(version_label="stable").execute(context)
    promote(context, load(group, context))
    assert sensor(version_label="stable").execute(context) == {"model": "half", "version": 1}
    assert sensor(version_label="stable", version="1").execute(context) == {"model": "half", "version": 1}
    with pytest.raises(AirflowSensorTimeout):
        sensor(version_label="stable", version=2).execute(context)


def test_sensor_waits_for_a_replica_that_does_not_answer(group) -> None:
    group.server.unreachable = True
    with pytest.raises(AirflowSensorTimeout):
        sensor(version=1).execute({})


def test_sensor_fails_at_once_when_the_version_cannot_come(group, context) -> None:
    with pytest.raises(TaskDeferred):
        load(group, context, "broken", deferrable=True)
    with pytest.raises(AirflowFailException, match="could not load version 1 of model 'half'"):
        sensor(version=1, timeout=60).execute(context)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "neither a version nor a label"),
        ({"version": "newest"}, "version 'newest' is not usable"),
        ({"version_label": "a-b"}, "label 'a-b' is not usable"),
        ({"version": 1, "model": "a/b"}, "model name 'a/b' is not usable"),
    ],
)
@pytest.mark.parametrize("deferrable", [False, True])
def test_sensor_refuses(group, arguments: dict[str, Any], told: str, deferrable: bool) -> None:
    with pytest.raises(AirflowFailException, match=told):
        sensor(deferrable=deferrable, **arguments).execute({})


@pytest.mark.parametrize("wanted", [{"version": 1}, {"version_label": "stable"}], ids=str)
def test_sensor_defers_and_comes_back(group, context, wanted: dict[str, Any]) -> None:
    promote(context, load(group, context))
    waiting = sensor(deferrable=True, timeout=10, **wanted)
    with pytest.raises(TaskDeferred) as deferred:
        waiting.execute(context)
    event = fire(deferred.value.trigger)
    assert waiting.execute_complete(context, event) == {"model": "half", "version": 1}
    late = ended_by(DeadlineExceeded("It is late.", "Wait."), 1)
    with pytest.raises(DeadlineExceeded, match="It is late"):
        waiting.execute_complete(context, late)
