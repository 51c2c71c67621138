"""Wait for a version, or for a label, on every replica of a serving group."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, conf
from airflow.sdk.bases.sensor import PokeReturnValue

from tfs_deploy.errors import InvalidInput, NotFound, Transient
from tfs_deploy.hooks.tf_serving import TFServingHook
from tfs_deploy.names import check_label, check_model_name
from tfs_deploy.operators.base import translate_errors, version_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tfs_deploy.serving.base_client import ServingClient

# For one status or metadata, which are answered from memory.
_RPC_SECONDS = 5.0
# The trigger ends the wait with an error of its own; Airflow's timeout is for a triggerer that died.
_TRIGGERER_MARGIN_SECONDS = 120.0


class ModelVersionSensor(BaseSensorOperator):
    """Succeed when every replica holds `version` AVAILABLE, or answers `version_label` (from `version`, if given).

    A replica that does not answer is waited for; one that says it cannot load the version fails the task at once.

    :param version: a number, a template, or what an operator on this model returned.
    :param version_label: e.g. ``stable``.
    :param deferrable: wait in the triggerer, without a worker slot.

    Returns ``{model, version}``.
    """

    template_fields = ("model", "version", "version_label", "tf_serving_conn_id")
    ui_color = "#fff3e0"

    def __init__(
        self,
        *,
        model: str,
        version: int | str | Mapping[str, Any] | None = None,
        version_label: str | None = None,
        tf_serving_conn_id: str = TFServingHook.default_conn_name,
        poke_interval: float | timedelta = 5.0,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.model = model
        self.version = version
        self.version_label = version_label
        self.tf_serving_conn_id = tf_serving_conn_id
        self.deferrable = deferrable

    def execute(self, context: Context) -> Any:
        """Wait here, or in the triggerer."""
        with translate_errors():
            version, label = self._target()
        if not self.deferrable:
            return super().execute(context)
        self.defer(
            trigger=self._trigger(version, label),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout + _TRIGGERER_MARGIN_SECONDS),
        )

    def poke(self, context: Context) -> PokeReturnValue:
        """Ask every replica once."""
        with translate_errors():
            version, label = self._target()
            answering = self._poll(version, label)
        return PokeReturnValue(answering is not None, xcom_value={"model": self.model, "version": answering})

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of the trigger, or raise its error."""
        from tfs_deploy.triggers.group_wait import require_available

        with translate_errors():
            return {"model": self.model, "version": require_available(event)}

    def _target(self) -> tuple[int | None, str | None]:
        check_model_name(self.model)
        version = None if self.version in (None, "", "None") else version_of(self.version, self.model)
        label = check_label(self.version_label) if self.version_label else None
        if version is None and label is None:
            raise InvalidInput(
                f"The sensor on model {self.model!r} has neither a version nor a label.",
                "Set version or version_label.",
            )
        return version, label

    def _poll(self, version: int | None, label: str | None) -> int | None:
        """Return the version that every replica answers with or holds AVAILABLE, None until then."""
        from tfs_deploy.serving.client import connect
        from tfs_deploy.serving.waiting import is_available
        from tfs_deploy.triggers.model_label import agreed_version

        settings = TFServingHook(self.tf_serving_conn_id).get_conn()
        tls = settings.tls_options()
        with ExitStack() as stack:
            clients = {target: stack.enter_context(connect(target, tls=tls)) for target in settings.targets()}
            if label is not None:
                answers = {target: self._labelled(client, label) for target, client in clients.items()}
                return agreed_version(answers, version)
            assert version is not None
            return version if is_available(clients, self.model, version, seconds=_RPC_SECONDS) else None

    def _labelled(self, client: ServingClient, label: str) -> int | None:
        try:
            return client.metadata(self.model, label=label, timeout=_RPC_SECONDS).version
        except (NotFound, Transient):
            return None

    def _trigger(self, version: int | None, label: str | None) -> Any:
        from tfs_deploy.triggers.model_label import ModelLabelTrigger
        from tfs_deploy.triggers.model_version import ModelVersionTrigger

        shared: dict[str, Any] = {
            "tf_serving_conn_id": self.tf_serving_conn_id,
            "model": self.model,
            "deadline": time.time() + self.timeout,
            "poll_interval": self.poke_interval,
        }
        if label is not None:
            return ModelLabelTrigger(version_label=label, version=version, **shared)
        assert version is not None
        # Another task loads it, at any time: until then neither "not listed" nor "unloaded" ends the wait.
        return ModelVersionTrigger(version=version, discovery_seconds=self.timeout, own_load=False, **shared)
