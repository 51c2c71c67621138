"""The fields of a `tf_serving` connection, as settings of a serving group; imports nothing of Airflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tfs_deploy.errors import InvalidInput
from tfs_deploy.serving.group import (
    DEFAULT_GROUP,
    DEFAULT_PORT,
    GroupSettings,
    Mode,
    SettingsSource,
    TLSFiles,
    split_hosts,
)
from tfs_deploy.yamlfile import check_settings


# A struct, not a dataclass: a misspelt key must be an error here, or e.g. the start-up file would silently grow stale.
class GroupExtra(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The extra fields of the connection; PEM files are named by path, their contents are never stored in Airflow."""

    store: str = ""
    aws_conn_id: str = ""
    group: str = DEFAULT_GROUP
    model_root: str = ""
    mode: Mode = Mode.LABELS
    startup_config: str = ""
    tls: bool = False
    root_certificates: str = ""
    private_key: str = ""
    certificate_chain: str = ""
    server_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings(GroupSettings):
    """One serving group as a connection describes it."""

    extra: GroupExtra

    def store_uri(self, override: str | None = None) -> str:
        """Return `override`, or the connection's store; raise InvalidInput without either."""
        uri = override or self.extra.store
        if not uri:
            raise InvalidInput(
                f"{self.source.sentence_start()} names no store.",
                "Fill in the field 'store', or name a store in the task.",
            )
        return uri


def read_settings(conn_id: str, *, host: str | None, port: int | None, extra: Mapping[str, Any]) -> ConnectionSettings:
    """Check the fields of connection `conn_id` and return them; raise InvalidInput naming the one that does not fit."""
    source = SettingsSource(f"the connection {conn_id!r}", targets=f"host of the connection {conn_id!r}")
    hosts = split_hosts(host or "")
    if not hosts:
        raise InvalidInput(
            f"{source.sentence_start()} has no host.", "Write host:port of every replica, separated by commas."
        )
    fields = _extra(source, extra)
    tls = {name: getattr(fields, name) for name in TLSFiles.__struct_fields__}
    named = [name for name in ("root_certificates", "private_key", "certificate_chain") if tls[name]]
    if named and not fields.tls:
        raise InvalidInput(
            f"{source.sentence_start()} names {' and '.join(named)}, but tls is off.",
            "Set tls to true, or clear those fields.",
        )
    return ConnectionSettings(
        source=source,
        hosts=hosts,
        default_port=port or DEFAULT_PORT,
        name=fields.group,
        model_root=fields.model_root or None,
        mode=fields.mode,
        startup_config=fields.startup_config or None,
        tls=TLSFiles(**tls) if fields.tls else None,
        extra=fields,
    )


def _extra(source: SettingsSource, extra: Mapping[str, Any]) -> GroupExtra:
    # A form sends an empty field as "" or null; both mean that nothing was said.
    given = {key: value for key, value in extra.items() if value not in ("", None)}
    # Not strict: a connection in the form of a URI holds text only, tls=true for instance.
    return check_settings(given, GroupExtra, subject=f"The extra of {source.name}", strict=False)
