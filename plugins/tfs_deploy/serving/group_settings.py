"""The settings of a serving group: one parser for the connection, `tfs-deploy.yaml` and the gateway's file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tfs_deploy.errors import InvalidInput
from tfs_deploy.names import check_group_name
from tfs_deploy.serving.group import DEFAULT_PORT, Mode, ServingGroup, are_discovered, check_targets, parse_targets

DEFAULT_GROUP = "default"


@dataclass(frozen=True, slots=True)
class SettingsSource:
    """Where settings are written, for messages: `name` stands inside a sentence, `prefix` before a field of TLS."""

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
