"""What a `tf_serving` connection says about a serving group, checked; knows nothing of Airflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tfs_deploy.errors import InvalidInput
from tfs_deploy.serving.group import DEFAULT_PORT, Mode, ServingGroup, are_discovered, parse_targets

if TYPE_CHECKING:
    from tfs_deploy.serving.protocol import TLSOptions

DEFAULT_GROUP = "default"


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


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """One serving group as a connection describes it; `hosts` may name a DNS record that is not resolved yet."""

    where: str
    hosts: tuple[str, ...]
    default_port: int
    extra: GroupExtra

    def targets(self) -> tuple[str, ...]:
        """Return the replicas as host:port; asks the resolver for ``dns:`` names, so it may block."""
        return parse_targets(self.hosts, default_port=self.default_port)

    def store_uri(self, override: str | None = None) -> str:
        """Return `override`, or the connection's store; raise InvalidInput without either."""
        uri = override or self.extra.store
        if not uri:
            raise InvalidInput(f"{self.where} names no store.", "Fill in the field 'store', or give the task a store.")
        return uri

    def serving_group(self, *, store_root: str, name: str | None = None) -> ServingGroup:
        """Return the group; without a model root the servers see the store under the path that is used here."""
        extra = self.extra
        return ServingGroup(
            name=name or extra.group,
            replicas=self.targets(),
            model_root=extra.model_root or store_root,
            mode=extra.mode,
            startup_config=extra.startup_config or None,
            discovered=are_discovered(self.hosts),
        )

    def tls_options(self) -> TLSOptions | None:
        """Read the PEM files; None where the group is not encrypted. Raises InvalidInput for a file without a key."""
        from tfs_deploy.serving.protocol import TLSOptions

        if not self.extra.tls:
            return None
        return TLSOptions(
            root_certificates=self._pem("root_certificates"),
            private_key=self._pem("private_key"),
            certificate_chain=self._pem("certificate_chain"),
            server_name=self.extra.server_name or None,
        )

    def _pem(self, field: str) -> bytes | None:
        path = getattr(self.extra, field)
        if not path:
            return None
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise InvalidInput(
                f"The file {path!r} that {self.where} names as {field} cannot be read: {error.strerror}.",
                "Correct the path, or make the file readable for the workers.",
            ) from error


def read_settings(conn_id: str, *, host: str | None, port: int | None, extra: Mapping[str, Any]) -> GroupSettings:
    """Check the fields of connection `conn_id` and return them; raise InvalidInput naming the one that does not fit."""
    where = f"The connection {conn_id!r}"
    hosts = tuple(part.strip() for part in (host or "").split(",") if part.strip())
    if not hosts:
        raise InvalidInput(f"{where} has no host.", "Write host:port of every replica, separated by commas.")
    # Checks what is written without asking a resolver, so that a bad address is told before anything else.
    parse_targets(hosts, resolve=lambda name, number: [name])
    settings = GroupSettings(where, hosts, port or DEFAULT_PORT, _extra(where, extra))
    _check_tls(settings)
    return settings


def _extra(where: str, extra: Mapping[str, Any]) -> GroupExtra:
    # A form sends an empty field as "" or null; both mean that nothing was said.
    given = {key: value for key, value in extra.items() if value not in ("", None)}
    try:
        # Not strict: a connection in the form of a URI holds text only, tls=true for instance.
        return msgspec.convert(given, type=GroupExtra, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"The extra of {where[0].lower()}{where[1:]} does not fit: {error}.",
            f"Known fields: {', '.join(GroupExtra.__struct_fields__)}.",
        ) from error


def _check_tls(settings: GroupSettings) -> None:
    extra = settings.extra
    named = [name for name in ("root_certificates", "private_key", "certificate_chain") if getattr(extra, name)]
    if named and not extra.tls:
        raise InvalidInput(
            f"{settings.where} names {' and '.join(named)}, but tls is off.", "Set tls to true, or clear those fields."
        )
    if bool(extra.private_key) != bool(extra.certificate_chain):
        raise InvalidInput(
            f"{settings.where} names only one of private_key and certificate_chain.", "Give both, or neither."
        )
