"""A container engine in memory: it keeps what the protocol promises, and can be told to fail at one of its calls."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tfs_deploy.containers.engine import ContainerSpec, ContainerState, ListedContainer, engine_error
from tfs_deploy.errors import NotFound

ADDRESS = "fake://engine"


class Listener:
    """A port of loopback whose connections say one byte, as a gRPC server's do."""

    def __init__(self, port: int | None) -> None:
        self._socket = socket.create_server(("127.0.0.1", port or 0))
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"x")

    def close(self) -> None:
        # Wakes the accept, which a close alone does not.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@dataclass
class Container:
    """One container of the fake."""

    spec: ContainerSpec
    state: ContainerState = field(default_factory=lambda: ContainerState(running=False, started=False))
    files: dict[str, bytes] = field(default_factory=dict)
    listeners: list[Listener] = field(default_factory=list)

    def end(self, code: int = 0, *, for_memory: bool = False) -> None:
        """Let its process end."""
        for listener in self.listeners:
            listener.close()
        self.listeners = []
        self.state = replace(self.state, running=False, exit_code=code, killed_for_memory=for_memory)


class FakeEngine:
    """A ContainerEngine. An image whose name has the word `dies` ends at once, `mute` never opens a port.

    `before` maps the name of a call to what is done before it, e.g. to raise an error; `calls` lists them all.
    """

    local = True
    host = "127.0.0.1"
    address = ADDRESS

    def __init__(self, images: tuple[str, ...] = ("server:1",)) -> None:
        self.images = set(images)
        self.containers: dict[str, Container] = {}
        self.calls: list[str] = []
        self.before: dict[str, object] = {}
        self.after: dict[str, object] = {}
        self._ids = itertools.count(1)

    def connect(self) -> FakeEngine:
        """Return itself: connections share the containers."""
        return self

    def require_image(self, image: str) -> None:
        self._called("require_image")
        if image not in self.images:
            raise engine_error(404, f"No such image: {image}", address=ADDRESS, subject=image)

    def create(self, spec: ContainerSpec) -> str:
        self._called("create")
        if spec.image not in self.images:
            raise engine_error(404, f"No such image: {spec.image}", address=ADDRESS, subject=spec.image)
        if spec.name and any(one.spec.name == spec.name for one in self.containers.values()):
            raise engine_error(
                409, f"Conflict. The container name {spec.name} is in use", address=ADDRESS, subject=spec.image
            )
        name = f"{next(self._ids):064x}"
        self.containers[name] = Container(spec)
        self._done("create")
        return name

    def copy_in(self, container: str, files: Mapping[str, bytes], directories: Mapping[str, str]) -> None:
        self._called("copy_in")
        held = self._held(container).files
        held.update(files)
        for target, directory in directories.items():
            for path in Path(directory).rglob("*"):
                if path.is_file():
                    held[f"{target}/{path.relative_to(directory)}"] = path.read_bytes()

    def start(self, container: str) -> None:
        self._called("start")
        held = self._held(container)
        for mount in held.spec.mounts:
            if not mount.volume and not Path(mount.source).is_dir():
                words = f"invalid mount config: bind source path does not exist: {mount.source}"
                raise engine_error(400, words, address=ADDRESS, subject=container)
        if held.spec.gpus:
            raise engine_error(
                500, "could not select device driver with capabilities: [[gpu]]", address=ADDRESS, subject=""
            )
        if "dies" in held.spec.image:
            held.state = ContainerState(running=False, started=True, exit_code=255)
        else:
            held.state = ContainerState(running=True, started=True, ports=self._open(held))
        self._done("start")

    def _open(self, held: Container) -> dict[int, int]:
        ports: dict[int, int] = {}
        for port in held.spec.ports:
            if "mute" in held.spec.image:
                ports[port.container_port] = 1
                continue
            try:
                listener = Listener(port.port)
            except OSError as error:
                words = f"Bind for 127.0.0.1:{port.port} failed: port is already allocated"
                raise engine_error(500, words, address=ADDRESS, subject="") from error
            held.listeners.append(listener)
            ports[port.container_port] = listener.port
        return ports

    def inspect(self, container: str) -> ContainerState:
        self._called("inspect")
        return self._held(container).state

    def log(self, container: str, *, lines: int) -> str:
        self._called("log")
        held = self.containers.get(container)
        ended = held is not None and not held.state.running
        return "hello\nFailed to start server. Error: UNKNOWN: no\n" if ended else "hello\n" if held else ""

    def stop(self, container: str) -> None:
        self._called("stop")
        held = self.containers.get(container)
        if held is not None and held.state.running:
            held.end()

    def remove(self, container: str) -> None:
        self._called("remove")
        held = self.containers.pop(container, None)
        if held is not None:
            held.end()

    def find(self, labels: Mapping[str, str]) -> tuple[ListedContainer, ...]:
        self._called("find")
        return tuple(
            ListedContainer(name, held.spec.name, held.state.running, dict(held.spec.labels))
            for name, held in self.containers.items()
            if all(
                label in held.spec.labels and value in ("", held.spec.labels[label]) for label, value in labels.items()
            )
        )

    def close(self) -> None:
        """Keep everything: other connections use it."""

    def _held(self, container: str) -> Container:
        if container not in self.containers:
            raise NotFound(f"No such container: {container}.", "Check the name.")
        return self.containers[container]

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self._do(self.before.get(name))

    def _done(self, name: str) -> None:
        self._do(self.after.get(name))

    def _do(self, act: object) -> None:
        if isinstance(act, BaseException):
            raise act
        if callable(act):
            act()
