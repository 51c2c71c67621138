"""The operators on a fake model server behind real gRPC: what they return, refuse, take back and retry."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

import tfs_deploy
from operator_calls import actions, deploy, publish, step
from saved_model_files import BAD_GATES, TEXT_OUTPUT, write_bad_gates, write_saved_model
from tfs_deploy import (
    BakeModelVersionOperator,
    DeployModelOperator,
    ExportSavedModelOperator,
    LabelModelVersionOperator,
    LoadModelVersionOperator,
    ModelVersionSensor,
    PromoteModelVersionOperator,
    PublishModelOperator,
    ReconcileServingGroupOperator,
    RejectModelVersionOperator,
    RetireModelVersionsOperator,
    RollbackModelOperator,
    StartModelServerOperator,
    StopModelServerOperator,
    UndeployModelOperator,
    ValidateModelVersionOperator,
)
from tfs_deploy.deployment import records
from tfs_deploy.errors import DeadlineExceeded, InvalidInput, Transient, Unreachable
from tfs_deploy.operators.base import version_of
from tfs_deploy.store.open import open_store
from tfs_deploy.triggers.group_wait import available, ended_by

pytestmark = pytest.mark.airflow

OPERATORS = {
    BakeModelVersionOperator: {"model": "half", "metrics": "http://gateway/metrics"},
    DeployModelOperator: {"model": "half", "saved_model": "x"},
    ExportSavedModelOperator: {"checkpoint": "x", "out": "y"},
    LabelModelVersionOperator: {"model": "half", "version_label": "canary", "version": 1},
    LoadModelVersionOperator: {"model": "half", "version": 1},
    ModelVersionSensor: {"model": "half", "version": 1},
    PromoteModelVersionOperator: {"model": "half", "version": 1},
    PublishModelOperator: {"model": "half", "saved_model": "x"},
    ReconcileServingGroupOperator: {},
    RejectModelVersionOperator: {"model": "half", "version": 1, "reason": "no"},
    RetireModelVersionsOperator: {"model": "half"},
    RollbackModelOperator: {"model": "half"},
    StartModelServerOperator: {"server": {"model": {"name": "half"}}},
    StopModelServerOperator: {"server_task_id": "start"},
    UndeployModelOperator: {"model": "half"},
    ValidateModelVersionOperator: {"model": "half", "version": 1},
}


@pytest.mark.parametrize("kind", OPERATORS, ids=lambda kind: kind.__name__)
def test_template_fields_are_attributes_named_like_arguments(kind: type[BaseOperator]) -> None:
    operator = kind(task_id="a_task", **OPERATORS[kind])
    for name in operator.template_fields:
        assert hasattr(operator, name)
    assert set(OPERATORS[kind]) <= set(operator.template_fields)


def test_templates_are_rendered() -> None:
    operator = step(
        ValidateModelVersionOperator,
        model="{{ params.model }}",
        version="{{ params.version }}",
        gates={"accuracy": {"file": "{{ params.file }}", "floor": "{{ params.floor }}"}},
    )
    operator.render_template_fields({"params": {"model": "half", "version": 3, "file": "a.npz", "floor": 0.5}})
    assert (operator.model, operator.version) == ("half", "3")
    assert operator.gates == {"accuracy": {"file": "a.npz", "floor": "0.5"}}


@pytest.mark.parametrize("name", tfs_deploy._PUBLIC_NAMES)
def test_public_names_are_there(name: str) -> None:
    assert getattr(tfs_deploy, name).__name__ == name
    assert name in dir(tfs_deploy)


def test_the_way_of_two_versions_and_back(group, context) -> None:
    first, second = publish(group, context), publish(group, context, "good again")
    assert (first["model"], first["version"], first["created"]) == ("half", 1, True)
    assert first["uploaded_bytes"] > 0
    assert second["version"] == 2
    for published in (first, second):
        number = published["version"]
        assert step(LoadModelVersionOperator, version=published).execute(context) == {
            "model": "half",
            "version": number,
        }
        report = step(ValidateModelVersionOperator, version=str(number)).execute(context)
        assert report["verdict"] == "pass"
        assert "passed signature, prediction" in report["reason"]
        done = step(PromoteModelVersionOperator, version=number).execute(context)
        assert (done["action"], done["version"]) == ("promoted", number)
        assert done["actor"] == "a_dag/a_run by ada"
        json.dumps([report, done])
    assert group.stable() == 2
    assert step(RollbackModelOperator, reason="felt like it").execute(context)["version"] == 1
    assert group.stable() == 1
    assert step(RollbackModelOperator, to="2").execute(context)["version"] == 2


def test_a_retried_rollback_is_one_rollback(group, context) -> None:
    for behaviour in ("good", "good again"):
        deploy(group, context, behaviour)
    context["ti"] = SimpleNamespace(dag_id="a_dag", run_id="a_run", task_id="a_task", map_index=-1)
    first, again = (step(RollbackModelOperator).execute(context) for _ in range(2))
    assert again == first
    assert group.stable() == 1
    context["ti"].run_id = "another_run"
    assert step(RollbackModelOperator).execute(context)["version"] == 2


def test_the_same_bytes_are_published_once(group, context) -> None:
    first, again = publish(group, context), publish(group, context)
    assert again == {**first, "uploaded_bytes": 0, "created": False}


def test_a_version_that_cannot_predict_is_rejected_and_stable_stays(group, context) -> None:
    deploy(group, context)
    bad = publish(group, context, "mute")
    step(LoadModelVersionOperator, version=bad).execute(context)
    with pytest.raises(AirflowFailException, match="Version 2 of model 'half' failed gate prediction"):
        step(ValidateModelVersionOperator, version=bad).execute(context)
    assert group.stable() == 1
    assert ("rejected", 2) in actions(group)
    assert open_store(str(group.store)).versions("half") == (1,)


def test_a_version_that_failed_can_be_left_to_look_at(group, context) -> None:
    bad = publish(group, context, "mute")
    step(LoadModelVersionOperator, version=bad).execute(context)
    with pytest.raises(AirflowFailException, match="failed gate prediction"):
        step(ValidateModelVersionOperator, version=bad, reject_on_failure=False).execute(context)
    assert open_store(str(group.store)).versions("half") == (1,)
    step(RejectModelVersionOperator, version=bad, reason="seen enough").execute(context)
    assert open_store(str(group.store)).versions("half") == ()
    assert actions(group)[-1] == ("rejected", 1)


def test_a_stable_version_that_fails_later_is_not_taken_away(group, context) -> None:
    deploy(group, context)
    wrong = {"golden": {"file": str(golden_file(group.folder))}}
    with pytest.raises(AirflowFailException, match=r"failed gate golden.*carries the label 'stable'.*not withdrawn"):
        step(ValidateModelVersionOperator, version=1, gates=wrong).execute(context)
    assert group.stable() == 1
    with pytest.raises(AirflowFailException, match="carries the label 'stable'"):
        step(RejectModelVersionOperator, version=1, reason="no").execute(context)
    assert group.stable() == 1


@pytest.mark.parametrize("mistake", BAD_GATES)
def test_a_mistake_in_the_gates_publishes_and_rejects_nothing(group, context, mistake: str) -> None:
    staged = str(write_saved_model(group.folder / "text", "good", signatures=TEXT_OUTPUT))
    gates = str(write_bad_gates(group.folder / "gates", mistake))
    for kind in (PublishModelOperator, DeployModelOperator):
        with pytest.raises(AirflowFailException):
            step(kind, saved_model=staged, gates=gates).execute(context)
        assert open_store(str(group.store)).versions("half") == ()
        assert actions(group) == []

    published = step(PublishModelOperator, saved_model=staged).execute(context)
    step(LoadModelVersionOperator, version=published).execute(context)
    with pytest.raises(AirflowFailException):
        step(ValidateModelVersionOperator, version=published, gates=gates).execute(context)
    assert open_store(str(group.store)).versions("half") == (1,)
    assert actions(group) == [("published", 1)]


def golden_file(folder: Path) -> Path:
    """Write a golden request that no version answers rightly."""
    from tfs_deploy.savedmodel.requests import GoldenRequest, write_golden

    one = np.ones(1, dtype=np.float32)
    write_golden(folder / "golden", "half", [GoldenRequest("serving_default", {"x": one}, {"y": one * 99})])
    return folder / "golden"


def test_a_version_that_cannot_be_loaded_is_rejected(group, context) -> None:
    deploy(group, context)
    bad = publish(group, context, "broken")
    with pytest.raises(AirflowFailException, match=r"could not load version 2 of model 'half'.*SavedModel bundle"):
        step(LoadModelVersionOperator, version=bad, deferrable=False).execute(context)
    assert actions(group)[-1] == ("rejected", 2)
    assert group.stable() == 1


def test_load_defers_and_comes_back(group, context) -> None:
    published = publish(group, context)
    operator = step(LoadModelVersionOperator, version=published, deferrable=True, wait_seconds="30")
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    path, kwargs = deferred.value.trigger.serialize()
    assert path == "tfs_deploy.triggers.model_version.ModelVersionTrigger"
    assert (kwargs["model"], kwargs["version"]) == ("half", 1)
    assert deferred.value.method_name == "execute_complete"
    assert deferred.value.timeout.total_seconds() > 30
    assert operator.execute_complete(context, available(1)) == {"model": "half", "version": 1}


def test_what_the_trigger_met_ends_the_task_as_it_should(group, context) -> None:
    published = publish(group, context)
    operator = step(LoadModelVersionOperator, version=published)
    for error in (DeadlineExceeded("It is late.", "Wait."), Unreachable("Nobody there.", "Start it.")):
        with pytest.raises(type(error), match=error.cause):
            operator.execute_complete(context, ended_by(error, 1))
    with pytest.raises(AirflowFailException, match="no host"):
        operator.execute_complete(context, ended_by(InvalidInput("It has no host.", "Give one."), 1))
    with pytest.raises(Transient, match="unknown event"):
        operator.execute_complete(context, {"status": "well"})
    assert open_store(str(group.store)).versions("half") == (1,)


def test_a_failed_load_told_by_the_trigger_is_rejected(group, context) -> None:
    published = publish(group, context, "broken")
    operator = step(LoadModelVersionOperator, version=published, deferrable=True)
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    event = {"status": "failed", "message": "It could not load.", "remedy": "Export again.", "version": 1}
    with pytest.raises(AirflowFailException, match=r"It could not load\. Export again\."):
        operator.execute_complete(context, event)
    assert actions(group)[-1] == ("rejected", 1)


def test_an_unreachable_replica_is_worth_a_retry_and_rejects_nothing(group, context) -> None:
    published = publish(group, context)
    step(LoadModelVersionOperator, version=published).execute(context)
    group.server.unreachable = True
    with pytest.raises(Transient):
        step(ValidateModelVersionOperator, version=published).execute(context)
    group.server.unreachable = False
    assert step(ValidateModelVersionOperator, version=published).execute(context)["verdict"] == "pass"


def test_nothing_is_promoted_without_a_passing_validation(group, context) -> None:
    published = publish(group, context)
    step(LoadModelVersionOperator, version=published).execute(context)
    with pytest.raises(AirflowFailException, match="was never validated"):
        step(PromoteModelVersionOperator, version=published).execute(context)
    assert group.stable() is None


@pytest.mark.parametrize(
    ("kind", "arguments", "told"),
    [
        (PublishModelOperator, {"saved_model": "nowhere"}, "There is no directory 'nowhere'"),
        (PublishModelOperator, {"saved_model": {}}, "is not a path"),
        (PublishModelOperator, {"saved_model": ".", "model": "../up"}, r"model name '\.\./up' is not usable"),
        (LoadModelVersionOperator, {"version": 7}, "7"),
        (LoadModelVersionOperator, {"version": "newest"}, "version 'newest' is not usable"),
        (LoadModelVersionOperator, {"version": {"model": "other", "version": 1}}, "one of model 'other'"),
        (LoadModelVersionOperator, {"version": 1, "wait_seconds": "soon"}, "wait_seconds is 'soon'"),
        (ValidateModelVersionOperator, {"version": 1, "gates": {"acuracy": {}}}, "acuracy"),
        (ValidateModelVersionOperator, {"version": 1, "gates": "no.yaml"}, r"There is no gates file no\.yaml"),
        (PromoteModelVersionOperator, {"version": 0}, "version 0 is not usable"),
        (PromoteModelVersionOperator, {"version": 1, "version_label": "7"}, "named like a version"),
        (LabelModelVersionOperator, {"version_label": "stable", "version": 1}, "label 'stable' is reserved"),
        (LabelModelVersionOperator, {"version_label": "canary"}, "neither a version nor remove"),
        (LabelModelVersionOperator, {"version_label": "canary", "version": 1, "remove": True}, "both a version and"),
        (RollbackModelOperator, {}, "no stable version"),
        (RollbackModelOperator, {"to": "x"}, "version 'x' is not usable"),
        (RetireModelVersionsOperator, {"keep": "all"}, "Cannot keep 'all' versions"),
        (RejectModelVersionOperator, {"version": 1, "reason": "no", "tf_serving_conn_id": "none"}, "none"),
    ],
)
def test_bad_input_fails_at_once_and_changes_nothing(
    group, context, kind: type[BaseOperator], arguments: dict[str, Any], told: str
) -> None:
    from airflow.sdk.exceptions import AirflowNotFoundException

    with pytest.raises((AirflowFailException, AirflowNotFoundException), match=told):
        step(kind, **arguments).execute(context)
    assert group.server.config.model_config_list.config == []
    assert list(open_store(str(group.store)).versions("half")) == []


def test_retire_keeps_what_is_needed(group, context) -> None:
    for behaviour in ("good", "good b", "good c", "good d"):
        deploy(group, context, behaviour)
    assert step(RetireModelVersionsOperator, keep="0", preview=True).execute(context)["retired"] == [1, 2]
    assert open_store(str(group.store)).versions("half") == (1, 2, 3, 4)
    assert step(RetireModelVersionsOperator, keep="1").execute(context) == {
        "model": "half",
        "retired": [1],
        "kept": [2, 3, 4],
        "dry_run": False,
        "abandoned": [],
    }
    with pytest.raises(AirflowFailException, match="'inf' hours"):
        step(RetireModelVersionsOperator, abandoned_after_hours="inf").execute(context)


def test_store_and_group_of_the_task_come_first(group, context) -> None:
    other = group.folder / "other"
    other.mkdir()
    published = step(
        PublishModelOperator, saved_model={"path": group.staged()}, store=str(other), group="blue"
    ).execute(context)
    assert Path(published["uri"]).is_relative_to(other)
    assert records.models(open_store(str(other)).documents, "blue") == ("half",)


def test_publishing_into_a_group_that_follows_the_latest_is_refused(group, context) -> None:
    group.connect(group.target, mode="latest")
    with pytest.raises(AirflowFailException, match=r"publishing is going live.*DeployModelOperator"):
        publish(group, context)
    assert open_store(str(group.store)).versions("half") == ()


@pytest.mark.parametrize("value", [3, "3", {"version": 3}, {"model": "half", "version": "3"}])
def test_versions_are_taken_in_every_form(value: Any) -> None:
    assert version_of(value, "half") == 3


@pytest.fixture
def events() -> Any:
    from airflow.sdk.execution_time.context import OutletEventAccessors

    return OutletEventAccessors()


def test_a_promotion_is_an_asset_event(group, context, events) -> None:
    deploy(group, context)
    second = publish(group, context, "good again")
    for kind in (LoadModelVersionOperator, ValidateModelVersionOperator):
        step(kind, version=second).execute(context)
    operator = step(PromoteModelVersionOperator, version=second)
    operator.execute({**context, "outlet_events": events})
    (event,) = events[operator.outlets[0]].asset_alias_events
    assert event.dest_asset_key.uri == tfs_deploy.stable_asset("default", "half").uri == "tfs-deploy://default/half"
    assert event.extra == {
        "version": 2,
        "previous": 1,
        "fingerprint": second["fingerprint"],
        "action": "promoted",
    }


def test_export_of_a_saved_model_needs_no_tensorflow(group, context, tmp_path: Path) -> None:
    operator = ExportSavedModelOperator(
        task_id="export",
        checkpoint=group.staged(),
        out=str(tmp_path / "out"),
        kind="saved_model",
        options={"warmup": "0", "inputs": " ", "search_path": ""},
    )
    done = operator.execute(context)
    assert done["path"] == str(tmp_path / "out")
    assert done["signatures"]["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert open_manifest(tmp_path / "out").provenance["dag"] == "a_dag"
    assert operator.execute(context) == done


def open_manifest(directory: Path) -> Any:
    from tfs_deploy.savedmodel import manifest

    return manifest.read(directory)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"checkpoint": "nowhere.keras"}, r"no file, directory or checkpoint 'nowhere\.keras'"),
        ({"kind": "onnx"}, "auto or one of keras, "),
        ({"options": {"signiture": "x"}}, r"\['signiture'\] do not exist"),
        ({"options": {"warmup": "many"}}, "warmup"),
        ({"options": {"signature": "nope"}}, "no signature 'nope'"),
        ({"moving_average_decay": "0.9"}, "moving average decay 0.9 is not usable"),
        ({"out": ""}, "no output directory"),
        ({"wait_seconds": 0}, "wait_seconds is 0"),
    ],
)
def test_bad_exports_leave_nothing(group, context, tmp_path: Path, arguments: dict[str, Any], told: str) -> None:
    out = tmp_path / "out"
    given = {"checkpoint": group.staged(), "out": str(out), "kind": "auto", **arguments}
    with pytest.raises(AirflowFailException, match=told):
        ExportSavedModelOperator(task_id="export", **given).execute(context)
    assert not out.exists()
