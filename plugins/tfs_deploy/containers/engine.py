"""What a container engine can do for us, and what is asked of it: the seam between the life cycle and Docker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tfs_deploy.containers.options import Gpus, Limits, RestartPolicy


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the engine's host, or a volume of the engine, as `target` in the container."""

    source: str
    target: str
    volume: bool = False
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A port of the container on an address of the engine's host; `port` None: a free one."""

    inside: int
    address: str
    port: int | None


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container before it is made."""

    image: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    name: str = ""
    mounts: tuple[Mount, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    gpus: Gpus | None = None
    limits: Limits = field(default_factory=Limits)
    network: str = ""
    user: str = ""
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    stop_seconds: int = 10


@dataclass(frozen=True, slots=True)
class Look:
    """A container at one moment; `ports` are those of the engine's host by the port inside.

    `exit_code` and `killed_for_memory` mean something when it does not run.
    """

    running: bool
    started: bool
    exit_code: int = 0
    killed_for_memory: bool = False
    ports: Mapping[int, int] = field(default_factory=dict)
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A container of a list."""

    id: str
    name: str
    running: bool
    labels: Mapping[str, str]


class ContainerEngine(Protocol):
    """A connection to an engine. Every call may raise Unreachable when the engine does not answer in time.

    A container that is not there (any more) is NotFound for `look`, `start` and `copy_in`, and nothing to do for the
    others.
    """

    @property
    def where(self) -> str:
        """Return the engine's address, for messages."""

    @property
    def local(self) -> bool:
        """Tell whether the engine is on this machine, so that it has our loopback and may see our directories."""

    @property
    def host(self) -> str:
        """Return the host name or address on which published ports are reached."""

    def require_image(self, image: str) -> None:
        """Make `image` present, from a registry if it must be; raise NotFound with the engine's words."""

    def create(self, spec: ContainerSpec) -> str:
        """Make a container that does not run yet and return its id; raise NotFound, InvalidInput or Refused."""

    def copy_in(self, container: str, files: Mapping[str, bytes], directories: Mapping[str, str]) -> None:
        """Put `files` (contents by path) and the contents of local `directories` (by path) into the container."""

    def start(self, container: str) -> None:
        """Start it; raise Refused where a port is taken, a device or a directory is missing."""

    def look(self, container: str) -> Look:
        """Return its state now."""

    def log(self, container: str, *, lines: int) -> str:
        """Return the end of what it wrote."""

    def stop(self, container: str) -> None:
        """Send SIGTERM, and SIGKILL after the `stop_seconds` that it was made with."""

    def remove(self, container: str) -> None:
        """Remove it with its anonymous volumes, whether it runs or not."""

    def find(self, labels: Mapping[str, str]) -> tuple[Found, ...]:
        """Return the containers, running or not, that carry all of `labels`; value ``""``: any value."""

    def close(self) -> None:
        """Give the connection back."""
