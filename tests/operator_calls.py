"""Calls of the operators on model `half`, as a task of a DAG run would make them."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperator

from tfs_deploy import (
    LoadModelVersionOperator,
    PromoteModelVersionOperator,
    PublishModelOperator,
    ValidateModelVersionOperator,
)
from tfs_deploy.deployment import records
from tfs_deploy.store.open import open_store


def step(kind: type[BaseOperator], **arguments: Any) -> Any:
    """Return an operator of model `half`."""
    return kind(task_id="a_task", **{"model": "half", **arguments})


def publish(group, context, behaviour: str = "good") -> dict[str, Any]:
    return step(PublishModelOperator, saved_model=group.staged(behaviour)).execute(context)


def deploy(group, context, behaviour: str = "good") -> dict[str, Any]:
    """Take a version to `stable` and return what publish returned."""
    published = publish(group, context, behaviour)
    for kind in (LoadModelVersionOperator, ValidateModelVersionOperator, PromoteModelVersionOperator):
        step(kind, version=published).execute(context)
    return published


def actions(group, model: str = "half") -> list[tuple[str, int]]:
    history = records.history(open_store(str(group.store)).documents, "default", model)
    return [(entry.action.value, entry.version) for entry in history]
