"""The Airflow connection of type `tf_serving`: from its fields to an open serving group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from tfs_deploy.errors import InvalidInput, TFSDeployError
from tfs_deploy.hooks.group_settings import ConnectionSettings, read_settings
from tfs_deploy.names import plural

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Connection

    from tfs_deploy.deployment.session import GroupSession
    from tfs_deploy.serving.client import AsyncModelServerClient
    from tfs_deploy.serving.waiting import WaitLimits
    from tfs_deploy.store.protocol import Store

# A name that no model has: the answer "unknown model" proves that a model server answers.
_PROBE_MODEL = "tfs_deploy_connection_test"
_PROBE_SECONDS = 5.0


class TFServingHook(BaseHook):
    """Reach one serving group and its store.

    :param tf_serving_conn_id: the connection; its host lists the replicas as ``host[:port],…`` or
        ``dns:name[:port]``, its port is the default port, its extra fields are those of `GroupExtra`.
    """

    conn_name_attr = "tf_serving_conn_id"
    default_conn_name = "tf_serving_default"
    conn_type = "tf_serving"
    hook_name = "TensorFlow Serving"

    def __init__(self, tf_serving_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.tf_serving_conn_id = tf_serving_conn_id

    def get_conn(self) -> ConnectionSettings:
        """Return the settings in the connection; raise InvalidInput for fields that do not fit."""
        connection = self.get_connection(self.tf_serving_conn_id)
        return self._settings(connection, connection.extra_dejson)

    async def aget_conn(self) -> ConnectionSettings:
        """Do what `get_conn` does without blocking the event loop."""
        connection = await self.aget_connection(self.tf_serving_conn_id)
        return self._settings(connection, await connection.aextra_dejson())

    @contextmanager
    def session(
        self,
        *,
        store: str | None = None,
        group: str | None = None,
        actor: str = "airflow",
        wait: WaitLimits | None = None,
    ) -> Iterator[GroupSession]:
        """Open the group for the steps of `tfs_deploy.deployment`; `store` and `group` override the connection."""
        from tfs_deploy.deployment.session import open_session
        from tfs_deploy.serving.waiting import WaitLimits

        settings = self.get_conn()
        opened = self._open_store(settings, settings.store_uri(store))
        serving_group = settings.serving_group(store_root=opened.uri, name=group)
        tls = settings.tls_options()
        with open_session(opened, serving_group, actor=actor, tls=tls, wait=wait or WaitLimits()) as session:
            yield session

    async def aio_clients(self) -> dict[str, AsyncModelServerClient]:
        """Return an asyncio client per replica, for a trigger; the caller closes them."""
        import asyncio

        from tfs_deploy.serving.client import connect_aio

        settings = await self.aget_conn()
        # A resolver and a disk may hang, and the event loop is shared by all triggers.
        targets = await asyncio.to_thread(settings.targets)
        tls = await asyncio.to_thread(settings.tls_options)
        return {target: connect_aio(target, tls=tls) for target in targets}

    def test_connection(self) -> tuple[bool, str]:
        """Query every replica, and read the store if the connection names one."""
        from tfs_deploy.serving.client import connect

        try:
            settings = self.get_conn()
            tls = settings.tls_options()
            targets = settings.targets()
            for target in targets:
                client = connect(target, tls=tls)
                try:
                    client.status(_PROBE_MODEL, timeout=_PROBE_SECONDS)
                finally:
                    client.close()
            if not settings.extra.store:
                return True, f"{_answering(targets)}; no store is named."
            self._open_store(settings, settings.extra.store).documents.list("groups/")
        except TFSDeployError as error:
            return False, str(error)
        return True, f"{_answering(targets)}, and the store can be read."

    def _open_store(self, settings: ConnectionSettings, uri: str) -> Store:
        from tfs_deploy.hooks.aws import s3_options
        from tfs_deploy.store.open import open_store

        return open_store(uri, s3=s3_options(settings.extra.aws_conn_id))

    def _settings(self, connection: Connection, extra: Mapping[str, Any]) -> ConnectionSettings:
        if connection.conn_type not in (None, "", self.conn_type):
            raise InvalidInput(
                f"The connection {self.tf_serving_conn_id!r} is of type {connection.conn_type!r}.",
                f"Make it of type {self.conn_type!r}, or name another connection.",
            )
        # Airflow only logs an extra that it could not read, and returns an empty one.
        unread = not extra and (connection.extra or "").strip() not in {"", "{}", "null"}
        if unread or not isinstance(extra, dict):
            raise InvalidInput(
                f"The extra of the connection {self.tf_serving_conn_id!r} is not a JSON object.", "Correct its JSON."
            )
        return read_settings(self.tf_serving_conn_id, host=connection.host, port=connection.port, extra=extra)


def _answering(targets: Sequence[str]) -> str:
    return f"{plural(len(targets), 'replica')} {'answers' if len(targets) == 1 else 'answer'}"
