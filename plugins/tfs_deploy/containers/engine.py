"""The protocol of a container engine, its values, and the errors that its refusals become."""

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

    container_port: int
    address: str
    port: int | None


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """How to create a container."""

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
class ContainerState:
    """The state of a container; `ports` maps a port of the container to one of the engine's host.

    `exit_code` and `killed_for_memory` are valid when it does not run.
    """

    running: bool
    started: bool
    exit_code: int = 0
    killed_for_memory: bool = False
    ports: Mapping[int, int] = field(default_factory=dict)
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class ListedContainer:
    """A container in the reply of `find`."""

    id: str
    name: str
    running: bool
    labels: Mapping[str, str]


class ContainerEngine(Protocol):
    """A connection to an engine. Every call may raise Unreachable when the engine does not answer in time.

    `inspect`, `start` and `copy_in` raise NotFound for a container that does not exist; other calls do nothing then.
    """

    @property
    def address(self) -> str:
        """Return the engine's address, for messages."""

    @property
    def local(self) -> bool:
        """Tell whether the engine is on this machine: it shares the loopback and may see local directories."""

    @property
    def host(self) -> str:
        """Return the host name or address on which published ports are reached."""

    def require_image(self, image: str) -> None:
        """Pull `image` unless the engine has it; raise NotFound with the engine's message."""

    def create(self, spec: ContainerSpec) -> str:
        """Create a container without starting it and return its id; raise NotFound, InvalidInput or Refused."""

    def copy_in(self, container: str, files: Mapping[str, bytes], directories: Mapping[str, str]) -> None:
        """Put `files` (contents by path) and the contents of local `directories` (by path) into the container."""

    def start(self, container: str) -> None:
        """Start it; raise Refused where a port is taken, a device or a directory is missing."""

    def inspect(self, container: str) -> ContainerState:
        """Return its state now."""

    def log(self, container: str, *, lines: int) -> str:
        """Return the last `lines` of its log."""

    def stop(self, container: str) -> None:
        """Send SIGTERM, and SIGKILL after the `stop_seconds` of its ContainerSpec."""

    def remove(self, container: str) -> None:
        """Remove it with its anonymous volumes, whether it runs or not."""

    def find(self, labels: Mapping[str, str]) -> tuple[ListedContainer, ...]:
        """Return the containers, running or not, that carry all of `labels`; value ``""``: any value."""

    def close(self) -> None:
        """Close the connection."""


class PortTaken(Refused):
    """A requested port is in use on the engine's host."""


class NoGpu(Refused):
    """The engine lacks the requested GPUs."""


_PORT = re.compile(r"port is already allocated|address already in use|ports are not available", re.IGNORECASE)
_PORT_NUMBER = re.compile(r":(\d+)(?:\b|\s*failed)")
_GPU = re.compile(r"could not select device driver|nvidia-container-cli|no known GPU vendor|unresolvable CDI", re.I)
_BIND = re.compile(r"bind source path does not exist: ?(\S+)")
_NO_IMAGE = re.compile(
    r"no such image|manifest( for .*)? (unknown|not found)|pull access denied|repository .* not found",
    re.IGNORECASE,
)
_NO_REGISTRY = re.compile(r"dial tcp|no such host|i/o timeout|TLS handshake|request canceled|connection refused", re.I)


def engine_error(status: int, message: str, *, address: str, subject: str) -> TFSDeployError:
    """Return the error for the engine's reply `status` and `message`; `subject` is an image or a container."""
    message = " ".join(message.split())
    for pattern, make in (
        (_PORT, _port_error),
        (_GPU, _gpu_error),
        (_BIND, _bind_error),
        (_NO_IMAGE, _image_error),
        (_NO_REGISTRY, _registry_error),
    ):
        if pattern.search(message):
            return make(message, address, subject)
    if status == 404:
        return NotFound(f"The container engine at {address} does not have it: {message}.", "Check the name.")
    if status == 409 or status >= 500:
        return Refused(f"The container engine at {address} refused: {message}.", "Correct the cause.")
    if status == 400:
        return InvalidInput(f"The container engine at {address} cannot use the options: {message}.", "Correct them.")
    return Permanent(f"The container engine at {address} answered {status}: {message}.", "See the engine's log.")


def _port_error(message: str, address: str, subject: str) -> TFSDeployError:
    number = _PORT_NUMBER.search(message)
    port = f"Port {number[1]}" if number else "A port"
    return PortTaken(
        f"{port} is taken on the host of the container engine at {address}.",
        "Stop the program that listens there, name another port, or leave the port out for a free one.",
    )


def _gpu_error(message: str, address: str, subject: str) -> TFSDeployError:
    return NoGpu(
        f"The container engine at {address} has no GPU for this container: {message}.",
        "Install the NVIDIA container toolkit on its host, ask for GPUs that are there, or leave gpus out.",
    )


def _bind_error(message: str, address: str, subject: str) -> TFSDeployError:
    match = _BIND.search(message)
    directory = match[1].rstrip(".,\"'") if match else "the directory"
    return NotFound(
        f"The host of the container engine at {address} has no directory {directory}.",
        "Name one that the engine sees, or let the model be copied into the container (copy).",
    )


def _image_error(message: str, address: str, subject: str) -> TFSDeployError:
    return NotFound(
        f"The container engine at {address} has no image {subject}, and none can be pulled: {message}.",
        "Check name and tag, build it, or log the engine in to its registry.",
    )


def _registry_error(message: str, address: str, subject: str) -> TFSDeployError:
    return Unreachable(
        f"The container engine at {address} has no image {subject}, and reaches no registry: {message}.",
        "Load or build the image there, or give the engine a way to the registry.",
    )
