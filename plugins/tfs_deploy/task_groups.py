"""The steps of one version as a task group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import TaskGroup, chain, conf

from tfs_deploy.hooks.tf_serving import TFServingHook
from tfs_deploy.operators.deploy import DeployModelOperator
from tfs_deploy.operators.load import LoadModelVersionOperator
from tfs_deploy.operators.promote import PromoteModelVersionOperator
from tfs_deploy.operators.publish import PublishModelOperator
from tfs_deploy.operators.retire import RetireModelVersionsOperator
from tfs_deploy.operators.validate import ValidateModelVersionOperator
from tfs_deploy.serving.group import Mode


def deploy_model(
    *,
    model: str,
    saved_model: Any,
    gates: str | Mapping[str, Any] | None = None,
    tf_serving_conn_id: str = TFServingHook.default_conn_name,
    store: str | None = None,
    group: str | None = None,
    keep: int | str | None = None,
    mode: str = Mode.LABELS.value,
    deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
    group_id: str = "deploy_model",
) -> Any:
    """Add the tasks publish, load, validate and promote (and retire, when `keep` is given); return promote's output.

    A version that fails is rejected, and `stable` stays where it is. With ``mode='latest'``, for a group that serves
    the latest version by itself, there is one task, deploy, whose output is returned: publishing moves the traffic of
    such a group, so the gates run before it on a throw-away model server. ``labels`` is refused for a group in mode
    `latest` before anything is changed; ``latest`` works for both.

    :param model: the model's name, or a template.
    :param saved_model: a directory, or the output of an `ExportSavedModelOperator`.
    :param gates: a gates file, or its contents as a dict; values may be templates and outputs of tasks.
    :param keep: how many old versions stay, besides the stable and the previous one; None: nothing is deleted.
    """
    chosen = Mode(mode)
    shared: dict[str, Any] = {
        "model": model,
        "tf_serving_conn_id": tf_serving_conn_id,
        "store": store,
        "group": group,
    }
    if chosen is Mode.LATEST and keep is not None:
        raise ValueError("keep deletes by labels; a group in mode 'latest' has none. Leave keep out.")
    with TaskGroup(group_id=group_id):
        if chosen is Mode.LATEST:
            return DeployModelOperator(task_id="deploy", saved_model=saved_model, gates=gates, **shared).output
        publish = PublishModelOperator(task_id="publish", saved_model=saved_model, gates=gates, **shared)
        version: Any = publish.output
        load = LoadModelVersionOperator(task_id="load", version=version, deferrable=deferrable, **shared)
        validate = ValidateModelVersionOperator(task_id="validate", version=version, gates=gates, **shared)
        promote = PromoteModelVersionOperator(task_id="promote", version=version, **shared)
        chain(publish, load, validate, promote)
        if keep is not None:
            chain(promote, RetireModelVersionsOperator(task_id="retire", keep=keep, **shared))
        return promote.output
