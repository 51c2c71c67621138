"""The operators for labels besides `stable`, for replicas that differ, and for the end of a model."""

from __future__ import annotations

import json

import pytest

from operator_calls import actions, deploy, publish, step
from tfs_deploy import (
    LabelModelVersionOperator,
    LoadModelVersionOperator,
    PromoteModelVersionOperator,
    ReconcileServingGroupOperator,
    UndeployModelOperator,
    ValidateModelVersionOperator,
)

pytestmark = pytest.mark.airflow


def test_a_canary_is_labelled_promoted_under_its_label_and_removed(group, context) -> None:
    deploy(group, context)
    second = publish(group, context, "good again")
    for kind in (LoadModelVersionOperator, ValidateModelVersionOperator):
        step(kind, version=second).execute(context)
    done = step(LabelModelVersionOperator, version_label="canary", version=second).execute(context)
    assert (done["action"], done["label"], done["version"]) == ("labelled", "canary", 2)
    json.dumps(done)
    again = step(PromoteModelVersionOperator, version_label="canary", version=2).execute(context)
    assert again["sequence"] == 0, "it names that version already"
    assert group.server.labels["half"] == {"stable": 1, "canary": 2}
    removal = {"version_label": "canary", "remove": True}
    assert step(LabelModelVersionOperator, **removal).execute(context)["previous"] == 2
    assert step(LabelModelVersionOperator, **removal).execute(context) is None
    assert group.server.labels["half"] == {"stable": 1}


def test_a_replica_that_was_changed_by_hand_is_reconciled_and_a_model_undeployed(group, context) -> None:
    deploy(group, context)
    nothing = ReconcileServingGroupOperator(task_id="a_task").execute(context)
    assert nothing == {"group": "default", "replicas": {}}
    undeployed = step(UndeployModelOperator, reason="live by mistake").execute(context)
    assert (undeployed["versions"], undeployed["withdrawn"]) == ([1], [])
    assert group.stable() is None
    assert actions(group)[-1] == ("undeployed", 0)
