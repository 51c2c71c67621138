"""The serving group: the replicas that share one ModelServerConfig, their addresses, and the settings that name them.

`GroupSettings` is the one parser for the connection, `tfs-deploy.yaml` and the gateway's file.
"""

from __future__ import annotations

import ipaddress
import posixpath
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import msgspec

from tfs_deploy.errors import InvalidInput, Unreachable
from tfs_deploy.names import check_group_name

# TF Serving's default gRPC port (contract 1).
DEFAULT_PORT = 8500
DEFAULT_GROUP = "default"
_DNS = "dns:"


class Mode(str, Enum):
    """How traffic reaches a new version."""

    LABELS = "labels"
    """Policy `specific`; a version answers `stable` only after its label was moved."""
    LATEST = "latest"
    """`--model_base_path` and policy `latest`: traffic moves when the version loads."""


@dataclass(frozen=True, slots=True)
class ServingGroup:
    """Name the replicas and where they find models.

    `model_root` is the directory as the model servers see it; `startup_config` the file that they read when they
    start, written here after every change of labels (None: they do not start from a file). `discovered`: the replicas
    are what a name resolves to now; a replica that it no longer resolves to is gone.
    """

    name: str
    replicas: tuple[str, ...]
    model_root: str
    mode: Mode = Mode.LABELS
    startup_config: str | None = None
    discovered: bool = False

    def __post_init__(self) -> None:
        """Raise InvalidInput for a name that is no key segment, or a model root that no model server can read."""
        check_group_name(self.name)
        if "://" in self.model_root:
            raise InvalidInput(
                f"The model servers cannot read {self.model_root!r}, and no other model root is named.",
                "Name model_root: the directory, as the model servers see it, that the sync agents fill.",
            )

    def base_path(self, model: str) -> str:
        """Return the directory that holds the versions of `model`, as the model servers see it."""
        return posixpath.join(self.model_root, model)


def _system_resolver(host: str, port: int) -> list[str]:
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label of over 63 characters
        raise Unreachable(
            f"The name {host!r} of the serving group does not resolve: {error}.",
            "Check the name, or list the replicas as host:port,host:port.",
        ) from error
    return sorted({str(entry[4][0]) for entry in entries})


def split_hosts(text: str | Iterable[str]) -> tuple[str, ...]:
    """Return the entries of ``host[:port],dns:name,...``, or of a list, without blanks; empty ones are left out."""
    parts = text.split(",") if isinstance(text, str) else text
    return tuple(host for part in parts if (host := part.strip()))


def are_discovered(text: str | Iterable[str]) -> bool:
    """Tell whether `parse_targets` would ask a resolver for some of the replicas in `text`."""
    return any(host.startswith(_DNS) for host in split_hosts(text))


def check_targets(text: str | Iterable[str], *, field: str = "") -> None:
    """Raise InvalidInput for an address that is not ``host[:port]`` or ``dns:name[:port]``; asks no resolver."""
    parse_targets(text, resolve=lambda host, port: [host], field=field)


def parse_targets(
    text: str | Iterable[str],
    *,
    default_port: int = DEFAULT_PORT,
    resolve: Callable[[str, int], list[str]] = _system_resolver,
    field: str = "",
) -> tuple[str, ...]:
    """Return replica addresses from ``host[:port],…`` or ``dns:name[:port]`` (one replica per resolved address).

    Raises InvalidInput, with `field` as the place of the address, and Unreachable for a name that does not resolve.
    """
    targets: list[str] = []
    for part in split_hosts(text):
        if part.startswith(_DNS):
            host, port = _split(part[len(_DNS) :].lstrip("/"), default_port, field)
            targets += [_join(address, port) for address in resolve(host, port)]
        else:
            targets.append(_join(*_split(part, default_port, field)))
    unique = tuple(dict.fromkeys(targets))
    if not unique:
        raise InvalidInput("No model server address is given.", "Give host:port of every replica, separated by commas.")
    return unique


def _split(text: str, default_port: int, field: str) -> tuple[str, int]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.lstrip(":")
    elif text.count(":") > 1:
        host, port = _ipv6(text), ""
    else:
        host, _, port = text.partition(":")
    bad_port = bool(port) and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)
    if not host or bad_port or any(character in host for character in "/ @"):
        raise InvalidInput(
            f"The model server address {text!r} is not host:port{f' ({field})' if field else ''}.",
            "Write for example 10.0.0.7:8500 or [::1]:8500.",
        )
    return host, int(port or default_port)


def _ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        return ""


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class SettingsSource:
    """Where settings are written, for messages: `name` stands inside a sentence, `tls_prefix` before a field."""

    name: str
    targets: str
    tls_prefix: str = ""

    def sentence_start(self) -> str:
        """Return the name as the first words of a sentence."""
        return self.name[0].upper() + self.name[1:]


@dataclass(frozen=True, slots=True)
class TLSOptions:
    """PEM bytes for a TLS channel; all None: the machine's own roots and no client certificate."""

    root_certificates: bytes | None = None
    private_key: bytes | None = field(default=None, repr=False)
    certificate_chain: bytes | None = None
    server_name: str | None = None


# A struct, not a dataclass: a misspelt key must be an error here, or it would be silently without effect.
class TLSFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paths of PEM files, and the name that the server's certificate carries; all left out: the machine's own roots."""

    root_certificates: str | None = None
    private_key: str | None = None
    certificate_chain: str | None = None
    server_name: str | None = None

    def below(self, base: Path) -> TLSFiles:
        """Return the files with their relative paths below `base`."""
        root, key, chain = (
            path and str(base / Path(path).expanduser())
            for path in (self.root_certificates, self.private_key, self.certificate_chain)
        )
        return TLSFiles(root, key, chain, self.server_name)

    def read(self, source: SettingsSource) -> TLSOptions:
        """Read the files; raise InvalidInput for one that cannot be read."""
        return TLSOptions(
            root_certificates=_pem(self.root_certificates, "root_certificates", source),
            private_key=_pem(self.private_key, "private_key", source),
            certificate_chain=_pem(self.certificate_chain, "certificate_chain", source),
            server_name=self.server_name,
        )

    def check(self, source: SettingsSource) -> None:
        """Raise InvalidInput for a key without its certificate chain, and the other way round."""
        if bool(self.private_key) != bool(self.certificate_chain):
            raise InvalidInput(
                f"{source.sentence_start()} names only one of {source.tls_prefix}private_key and "
                f"{source.tls_prefix}certificate_chain ({self.private_key or self.certificate_chain}).",
                "Give both, or neither.",
            )


def _pem(path: str | None, field: str, source: SettingsSource) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"The file {path!r} that {source.name} names as {source.tls_prefix}{field} cannot be read: "
            f"{error.strerror}.",
            "Correct the path, or make the file readable.",
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """One serving group as a user describes it; `hosts` may hold names that are not resolved yet, or nothing.

    Raises InvalidInput that names the source and the field.
    """

    source: SettingsSource
    hosts: tuple[str, ...] = ()
    default_port: int = DEFAULT_PORT
    name: str = DEFAULT_GROUP
    model_root: str | None = None
    mode: Mode = Mode.LABELS
    startup_config: str | None = None
    tls: TLSFiles | None = None

    def __post_init__(self) -> None:
        """Check everything that needs no resolver and no disk, so that a mistake is reported before anything else."""
        check_group_name(self.name)
        if self.hosts:
            check_targets(self.hosts, field=self.source.targets)
        if self.tls is not None:
            self.tls.check(self.source)
        if self.model_root is not None and not self.model_root.startswith("/"):
            raise InvalidInput(
                f"The model root {self.model_root!r} in {self.source.name} is not an absolute path.",
                "Give model_root as the model servers see it, for example /models.",
            )

    def targets(self) -> tuple[str, ...]:
        """Return the replicas as host:port; asks the resolver for ``dns:`` names, so it may block."""
        return parse_targets(self.hosts, default_port=self.default_port)

    def serving_group(self, *, store_root: str, name: str | None = None) -> ServingGroup:
        """Return the group; without a model root the servers see the store under the path that is used here."""
        return ServingGroup(
            name=name or self.name,
            replicas=self.targets(),
            model_root=self.model_root or store_root,
            mode=self.mode,
            startup_config=self.startup_config,
            discovered=are_discovered(self.hosts),
        )

    def tls_options(self) -> TLSOptions | None:
        """Read the PEM files; None where the group is not encrypted."""
        return None if self.tls is None else self.tls.read(self.source)
