"""Where the store and the model servers are: options, then environment variables, then the settings file."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from tfs_deploy.cli.options import GroupOptions
from tfs_deploy.deployment.session import Timeouts
from tfs_deploy.errors import InvalidInput
from tfs_deploy.serving.group import (
    DEFAULT_GROUP,
    GroupSettings,
    Mode,
    ServingGroup,
    SettingsSource,
    TLSFiles,
    TLSOptions,
    split_hosts,
)
from tfs_deploy.serving.waiting import WaitLimits
from tfs_deploy.store.object_store.connection import S3Options
from tfs_deploy.yamlfile import check_settings, read_yaml

FILE_NAME = "tfs-deploy.yaml"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/")
# At most a day, so that a forgotten command ends.
_Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=86400.0)]


# Structs, not dataclasses: a misspelt key must be an error here, or it would be silently without effect.
class S3File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the S3 store answers; credentials come from the environment or a profile, never from this file."""

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool | None = None
    profile: str | None = None
    ca_bundle: str | None = None


class TimeoutsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds; what is left out keeps its default (see `Timeouts` and `WaitLimits`)."""

    status: _Seconds = Timeouts().status
    reload: _Seconds = Timeouts().reload
    lease: _Seconds = Timeouts().lease
    discovery: _Seconds = WaitLimits().discovery
    load: _Seconds = WaitLimits().load


class SettingsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings file; relative paths in it count from its own directory."""

    store: str | None = None
    target: str | tuple[str, ...] | None = None
    group: str | None = None
    model_root: str | None = None
    mode: Mode = Mode.LABELS
    startup_config: str | None = None
    tls: TLSFiles | None = None
    s3: S3File = S3File()
    timeouts: TimeoutsFile = TimeoutsFile()


@dataclass(frozen=True, slots=True)
class Settings:
    """The store, the serving group and the actor of a command, with their time limits."""

    store: str | None
    target: str | None
    actor: str
    servers: GroupSettings
    tls: TLSOptions | None = None
    s3: S3Options = field(default_factory=S3Options)
    timeouts: Timeouts = field(default_factory=Timeouts)
    wait: WaitLimits = field(default_factory=WaitLimits)

    @property
    def group(self) -> str:
        """Return the name of the serving group."""
        return self.servers.name

    def store_uri(self) -> str:
        """Return the store; raise InvalidInput if none was named."""
        if self.store is None:
            raise InvalidInput(
                "No store is given.",
                f"Use --store (a directory or s3://BUCKET/PREFIX), TFS_DEPLOY_STORE, or the key store in {FILE_NAME}.",
            )
        return self.store

    def replicas(self) -> tuple[str, ...]:
        """Return the addresses of all replicas; raise InvalidInput if none was named."""
        self._require_target()
        return self.servers.targets()

    def serving_group(self, store_directory: str) -> ServingGroup:
        """Return the group whose servers read `store_directory`, unless another model root was named."""
        self._require_target()
        return self.servers.serving_group(store_root=store_directory)

    def _require_target(self) -> None:
        if self.target is None:
            raise InvalidInput(
                "No model server is given.",
                f"Use --target HOST:PORT[,HOST:PORT...], TFS_DEPLOY_TARGET, or the key target in {FILE_NAME}.",
            )


def read_settings(flags: GroupOptions, *, environ: Mapping[str, str], directory: Path) -> Settings:
    """Return the settings that hold in `directory`; raise InvalidInput for a file or a value that cannot be used."""
    path = flags.config or directory / FILE_NAME
    file = _read_file(path, required=flags.config is not None)
    base = Path(os.path.abspath(path)).parent
    target, targets_source = _first(
        (flags.target, "--target"),
        (environ.get("TFS_DEPLOY_TARGET"), "TFS_DEPLOY_TARGET"),
        (_join_targets(file.target), f"target in {path}"),
    )
    servers = GroupSettings(
        source=SettingsSource(f"the settings file {path}", targets=targets_source, tls_prefix="tls."),
        hosts=split_hosts(target or ""),
        name=flags.group or environ.get("TFS_DEPLOY_GROUP") or file.group or DEFAULT_GROUP,
        model_root=file.model_root,
        mode=file.mode,
        startup_config=_below(file.startup_config, base) if file.startup_config else None,
        tls=file.tls and file.tls.below(base),
    )
    in_file = _below(file.store, base) if file.store else None
    return Settings(
        store=flags.store or environ.get("TFS_DEPLOY_STORE") or in_file,
        target=target,
        actor=flags.actor or environ.get("TFS_DEPLOY_ACTOR") or _user(),
        servers=servers,
        tls=servers.tls_options(),
        s3=_s3(file.s3, base),
        timeouts=Timeouts(file.timeouts.status, file.timeouts.reload, file.timeouts.lease),
        wait=WaitLimits(discovery=file.timeouts.discovery, load=file.timeouts.load, rpc=file.timeouts.status),
    )


def _first(*values: tuple[str | None, str]) -> tuple[str | None, str]:
    """Return the first value that is not empty, and where it was given."""
    return next(((value, place) for value, place in values if value), (None, ""))


def _read_file(path: Path, *, required: bool) -> SettingsFile:
    if not required and not path.exists():
        return SettingsFile()
    data = read_yaml(path, "settings file")
    return check_settings({} if data is None else data, SettingsFile, subject=f"The settings file {path}")


def _join_targets(target: str | tuple[str, ...] | None) -> str:
    return target or "" if target is None or isinstance(target, str) else ",".join(target)


def _below(text: str, base: Path) -> str:
    return text if _URI.match(text) else str(base / Path(text).expanduser())


def _s3(file: S3File, base: Path) -> S3Options:
    return S3Options(
        endpoint_url=file.endpoint_url,
        region=file.region,
        path_style=file.path_style,
        profile=file.profile,
        ca_bundle=str(base / Path(file.ca_bundle).expanduser()) if file.ca_bundle else None,
    )


def _user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"
