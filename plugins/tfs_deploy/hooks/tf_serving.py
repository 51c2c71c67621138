"""The Airflow connection of type `tf_serving` as an open serving group, and of type `aws` as the settings of S3."""

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
    from tfs_deploy.store.object_store.connection import S3Options
    from tfs_deploy.store.protocol import Store

# A name that no model has: the answer "unknown model" proves that a model server answers.
_PROBE_MODEL = "tfs_deploy_connection_test"
_PROBE_SECONDS = 5.0
_AWS_CONN_TYPES = (None, "", "aws", "s3")
# The amazon provider implements these itself; a boto3 client alone does not.
_REFUSED_AWS_FIELDS = ("role_arn", "assume_role_method", "assume_role_kwargs", "service_config")


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

    async def aio_store_session(
        self, *, store: str | None = None, group: str | None = None, wait: WaitLimits
    ) -> GroupSession:
        """Return the group with its store and without a client of any replica, for a trigger that reads the store."""
        import asyncio

        from tfs_deploy.deployment.session import GroupSession

        settings = await self.aget_conn()
        s3 = await as3_options(settings.extra.aws_conn_id)

        def opened() -> GroupSession:
            from tfs_deploy.store.open import open_store

            in_store = open_store(settings.store_uri(store), s3=s3)
            serving_group = settings.serving_group(store_root=in_store.uri, name=group)
            return GroupSession(in_store, serving_group, {}, "airflow triggerer", wait=wait)

        # Imports of boto3, a resolver and a disk take time that the event loop must not wait for.
        return await asyncio.to_thread(opened)

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
            self._open_store(settings, settings.extra.store).documents.folders("groups/")
        except TFSDeployError as error:
            return False, str(error)
        return True, f"{_answering(targets)}, and the store can be read."

    def _open_store(self, settings: ConnectionSettings, uri: str) -> Store:
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


def s3_options(conn_id: str) -> S3Options | None:
    """Return the settings in connection `conn_id`; None without one: boto3's own chain.

    Login and password are the key's id and its secret; the extra may hold endpoint_url, region_name,
    aws_session_token, profile_name and verify (true, false, or a CA bundle's path), as in the amazon provider.
    Raises InvalidInput for another type of connection and for settings that would be ignored.
    """
    if not conn_id:
        return None
    connection = BaseHook.get_connection(conn_id)
    return _s3_options(connection, connection.extra_dejson)


async def as3_options(conn_id: str) -> S3Options | None:
    """Do what `s3_options` does without blocking the event loop."""
    if not conn_id:
        return None
    connection = await BaseHook.aget_connection(conn_id)
    return _s3_options(connection, await connection.aextra_dejson())


def _s3_options(connection: Connection, extra: dict[str, Any]) -> S3Options:
    from tfs_deploy.store.object_store.connection import S3Options

    conn_id = connection.conn_id
    if connection.conn_type not in _AWS_CONN_TYPES:
        raise InvalidInput(
            f"The connection {conn_id!r} is of type {connection.conn_type!r}.", "Name a connection of type 'aws'."
        )
    refused = [key for key in _REFUSED_AWS_FIELDS if extra.get(key)]
    if refused:
        raise InvalidInput(
            f"The connection {conn_id!r} sets {', '.join(refused)}, which a store does not support.",
            "Configure the role in a profile of the workers and name it as profile_name, or leave aws_conn_id empty.",
        )
    return S3Options(
        endpoint_url=_text(extra, "endpoint_url"),
        region=_text(extra, "region_name"),
        access_key_id=connection.login or None,
        secret_access_key=connection.password or None,
        session_token=_text(extra, "aws_session_token"),
        profile=_text(extra, "profile_name"),
        **_verification(extra.get("verify")),
    )


def _text(extra: dict[str, Any], key: str) -> str | None:
    return str(extra[key]) if extra.get(key) else None


def _verification(verify: object) -> dict[str, Any]:
    if verify in (None, "", True, "true", "True"):
        return {}
    if verify in (False, "false", "False"):
        return {"verify_tls": False}
    return {"ca_bundle": str(verify)}
