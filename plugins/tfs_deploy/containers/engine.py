"""What a container engine can do for us, and what is asked of it: the seam between the life cycle and Docker."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tfs_deploy.containers.options import Gpus, Limits, RestartPolicy
from tfs_deploy.errors import InvalidInput, NotFound, Permanent, Refused, TFSDeployError, Unreachable


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


class PortTaken(Refused):
    """A port that was asked for by number is in use on the engine's host."""


class NoGpu(Refused):
    """The engine has no GPU to give, or not the ones that were asked for."""


_PORT = re.compile(r"port is already allocated|address already in use|ports are not available", re.IGNORECASE)
_PORT_NUMBER = re.compile(r":(\d+)(?:\b|\s*failed)")
_GPU = re.compile(r"could not select device driver|nvidia-container-cli|no known GPU vendor|unresolvable CDI", re.I)
_BIND = re.compile(r"bind source path does not exist: ?(\S+)")
_NO_IMAGE = re.compile(
    r"no such image|manifest( for .*)? (unknown|not found)|pull access denied|repository .* not found",
    re.IGNORECASE,
)
_NO_REGISTRY = re.compile(r"dial tcp|no such host|i/o timeout|TLS handshake|request canceled|connection refused", re.I)


def engine_error(status: int, words: str, *, where: str, what: str) -> TFSDeployError:
    """Return the error that the engine's answer `status` with `words` stands for; `what` is an image or a container."""
    told = " ".join(words.split())
    for sign, make in ((_PORT, _port), (_GPU, _gpu), (_BIND, _bind), (_NO_IMAGE, _no_image), (_NO_REGISTRY, _registry)):
        if sign.search(told):
            return make(told, where, what)
    if status == 404:
        return NotFound(f"The container engine at {where} does not have what was named: {told}.", "Check the name.")
    if status == 409 or status >= 500:
        return Refused(f"The container engine at {where} refused: {told}.", "Correct what it names.")
    if status == 400:
        return InvalidInput(f"The container engine at {where} cannot use the options: {told}.", "Correct them.")
    return Permanent(f"The container engine at {where} answered {status}: {told}.", "See the engine's log.")


def _port(told: str, where: str, what: str) -> TFSDeployError:
    number = _PORT_NUMBER.search(told)
    named = f"Port {number[1]}" if number else "A port"
    return PortTaken(
        f"{named} is taken on the host of the container engine at {where}.",
        "Stop what listens there, give another one, or leave the port out for a free one.",
    )


def _gpu(told: str, where: str, what: str) -> TFSDeployError:
    return NoGpu(
        f"The container engine at {where} has no GPU for this: {told}.",
        "Install the NVIDIA container toolkit on its host, ask for GPUs that are there, or leave gpus out.",
    )


def _bind(told: str, where: str, what: str) -> TFSDeployError:
    found = _BIND.search(told)
    directory = found[1].rstrip(".,\"'") if found else "the directory"
    return NotFound(
        f"The host of the container engine at {where} has no directory {directory}.",
        "Name one that the engine sees, or let the model be copied into the container (copy).",
    )


def _no_image(told: str, where: str, what: str) -> TFSDeployError:
    return NotFound(
        f"The container engine at {where} has no image {what}, and none can be pulled: {told}.",
        "Check name and tag, build it, or log the engine in to its registry.",
    )


def _registry(told: str, where: str, what: str) -> TFSDeployError:
    return Unreachable(
        f"The container engine at {where} has no image {what}, and reaches no registry: {told}.",
        "Load or build the image there, or give the engine a way to the registry.",
    )
