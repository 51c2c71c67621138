"""S3 settings from an Airflow connection of type `aws`, without the amazon provider."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseHook

from tfs_deploy.errors import InvalidInput
from tfs_deploy.store.object_store.connection import S3Options

_CONN_TYPES = (None, "", "aws", "s3")
# The amazon provider implements these itself; a boto3 client alone does not.
_REFUSED = ("role_arn", "assume_role_method", "assume_role_kwargs", "service_config")


def s3_options(conn_id: str) -> S3Options | None:
    """Return the settings in connection `conn_id`; None without one: boto3's own chain.

    Login and password are the key's id and its secret; the extra may hold endpoint_url, region_name,
    aws_session_token, profile_name and verify (true, false, or a CA bundle's path), as in the amazon provider.
    Raises InvalidInput for another type of connection and for settings that would be ignored.
    """
    if not conn_id:
        return None
    connection = BaseHook.get_connection(conn_id)
    if connection.conn_type not in _CONN_TYPES:
        raise InvalidInput(
            f"The connection {conn_id!r} is of type {connection.conn_type!r}.", "Name a connection of type 'aws'."
        )
    extra = connection.extra_dejson
    refused = [key for key in _REFUSED if extra.get(key)]
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
