"""What every operator on a serving group shares: where the group is, who acts, and how errors are told."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from tfs_deploy.errors import InvalidInput
from tfs_deploy.hooks.tf_serving import TFServingHook
from tfs_deploy.names import check_version
from tfs_deploy.operators.translate_errors import translate_errors

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tfs_deploy.deployment.session import GroupSession
    from tfs_deploy.serving.waiting import WaitLimits


class TFServingOperator(BaseOperator):
    """One step on one model of a serving group.

    :param model: the model's name.
    :param tf_serving_conn_id: the connection that describes the serving group.
    :param store: overrides the store of the connection.
    :param group: overrides the group's name of the connection.
    """

    template_fields: Collection[str] = ("model", "tf_serving_conn_id", "store", "group")
    ui_color = "#fff3e0"

    def __init__(
        self,
        *,
        model: str,
        tf_serving_conn_id: str = TFServingHook.default_conn_name,
        store: str | None = None,
        group: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.tf_serving_conn_id = tf_serving_conn_id
        self.store = store
        self.group = group

    @contextmanager
    def step(self, context: Context, *, wait: WaitLimits | None = None) -> Iterator[GroupSession]:
        """Open the serving group in the name of this run, and tell Airflow which errors are worth a retry."""
        hook = TFServingHook(self.tf_serving_conn_id)
        with (
            translate_errors(),
            hook.session(
                store=self.store or None, group=self.group or None, actor=actor_of(context), wait=wait
            ) as session,
        ):
            yield session


def actor_of(context: Mapping[str, Any] | Context) -> str:
    """Return who acts: the DAG, the run, and the user who started it where Airflow knows one."""
    run = context.get("dag_run")
    if run is None:
        return "airflow"
    user = getattr(run, "triggering_user_name", None)
    return f"{run.dag_id}/{run.run_id}" + (f" by {user}" if user else "")


def idempotency_key_of(context: Mapping[str, Any] | Context) -> str:
    """Return what names this task of this run, the same for each of its tries; empty outside of a run."""
    ti = context.get("ti")
    if ti is None:
        return ""
    mapped = f"/{ti.map_index}" if ti.map_index is not None and ti.map_index >= 0 else ""
    return f"{ti.dag_id}/{ti.run_id}/{ti.task_id}{mapped}"


def version_of(value: Any, model: str) -> int:
    """Return the version from a number, a rendered template, or what an operator on `model` returned."""
    if not isinstance(value, Mapping):
        return check_version(value)
    if value.get("model", model) != model:
        raise InvalidInput(
            f"The version is one of model {value['model']!r}, but the task is about model {model!r}.",
            "Give both the same model.",
        )
    return check_version(value.get("version", 0))


def seconds_of(value: float | str, what: str) -> float:
    """Return a number of seconds from a number or a rendered template; raise InvalidInput naming `what`."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0.0 < seconds < float("inf"):
        raise InvalidInput(f"{what} is {value!r}.", "Give a number of seconds above 0.")
    return seconds
