"""What the operators share: the serving group, the actor, arguments with rendered templates, errors for Airflow."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from tfs_deploy.errors import InvalidInput, Permanent
from tfs_deploy.hooks.tf_serving import TFServingHook
from tfs_deploy.names import check_version

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tfs_deploy.deployment.session import GroupSession
    from tfs_deploy.serving.waiting import WaitLimits
    from tfs_deploy.validation.config import Gates


class ServingGroupOperator(BaseOperator):
    """One step on a serving group.

    :param tf_serving_conn_id: the connection that describes the serving group.
    :param store: overrides the store of the connection.
    :param group: overrides the group's name of the connection.
    """

    template_fields: Collection[str] = ("tf_serving_conn_id", "store", "group")
    ui_color = "#fff3e0"

    def __init__(
        self,
        *,
        tf_serving_conn_id: str = TFServingHook.default_conn_name,
        store: str | None = None,
        group: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tf_serving_conn_id = tf_serving_conn_id
        self.store = store
        self.group = group

    @contextmanager
    def step(self, context: Context, *, wait: WaitLimits | None = None) -> Iterator[GroupSession]:
        """Open the serving group with this run as the actor, and translate errors for Airflow."""
        hook = TFServingHook(self.tf_serving_conn_id)
        with (
            translate_errors(),
            hook.session(
                store=self.store or None, group=self.group or None, actor=actor_of(context), wait=wait
            ) as session,
        ):
            yield session


class TFServingOperator(ServingGroupOperator):
    """One step on one model of a serving group.

    :param model: the model's name.
    :param tf_serving_conn_id: the connection that describes the serving group.
    :param store: overrides the store of the connection.
    :param group: overrides the group's name of the connection.
    """

    template_fields: Collection[str] = ("model", *ServingGroupOperator.template_fields)

    def __init__(self, *, model: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model


@contextmanager
def translate_errors() -> Iterator[None]:
    """Fail the task at once for a Permanent error; a Transient one passes, and Airflow retries it by `retries`."""
    try:
        yield
    except Permanent as error:
        raise AirflowFailException(str(error)) from error


def actor_of(context: Mapping[str, Any] | Context) -> str:
    """Return who acts: the DAG, the run, and the user who started it where Airflow knows one."""
    run = context.get("dag_run")
    if run is None:
        return "airflow"
    user = getattr(run, "triggering_user_name", None)
    return f"{run.dag_id}/{run.run_id}" + (f" by {user}" if user else "")


def idempotency_key_of(context: Mapping[str, Any] | Context) -> str:
    """Return the key of this task of this run, the same for each of its tries; empty outside of a run."""
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


def seconds_of(value: float | str, argument: str) -> float:
    """Return a number of seconds from a number or a rendered template; raise InvalidInput naming `argument`."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0.0 < seconds < float("inf"):
        raise InvalidInput(f"The argument {argument} is {value!r}.", "Give a number of seconds above 0.")
    return seconds


def gates_of(given: Any) -> Gates:
    """Return gates from a path, a dict that may hold rendered templates ("0.9"), or nothing."""
    from tfs_deploy.validation.config import Gates, gates_from, read_gates

    if given is None or given == "":
        return Gates()
    return read_gates(given) if isinstance(given, str) else gates_from(given, strict=False)
