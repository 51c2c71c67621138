"""The life cycle of a model server in a container.

Life cycle::

    NEW ──start──► STARTING ──ports open──► LISTENING ──stop──► STOPPED
                       │                        │
                       └── the server ends ─────┴─► `require_running` and `start` raise ServerDied

`start` either returns with open ports, or raises and leaves no container. `stop` may be called in every state, any
number of times, by another thread or a signal handler, also while `start` runs. The container carries a label that is
drawn before the engine is asked for anything, so it is found even when the engine's reply was lost.

This module never talks to the model server; `tfs_deploy.serving` does.
"""

from __future__ import annotations

import logging
import re
import socket
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import TracebackType

from tfs_deploy.clock import Clock, Deadline, SystemClock
from tfs_deploy.containers.command_line import GRPC_PORT, REST_PORT, CommandLine, command_line
from tfs_deploy.containers.engine import ContainerEngine, ContainerSpec, ContainerState, Mount, PublishedPort
from tfs_deploy.containers.options import ServerOptions
from tfs_deploy.containers.ownership import INSTANCE_LABEL, Owner
from tfs_deploy.errors import DeadlineExceeded, InvalidInput, LoadFailed, LoadInterrupted, Permanent, Refused
from tfs_deploy.serving.load_errors import code_in_log, load_error

logger = logging.getLogger(__name__)

HOST_NETWORK = "host"
_LOOPBACK = "127.0.0.1"
_ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 - for an engine on another machine; the options can name an address
_POLL_SECONDS = 0.1
_CONNECT_SECONDS = 1.0
# The engine accepts every connection to a forwarded port, and drops it at once when nothing listens behind it.
_HOLD_SECONDS = 0.3
# How long the engine's view may lag behind: a container whose creation was under way, a process that ended.
_ENGINE_LAG_SECONDS = 5.0
# How much of the log is read, and how much of it goes into an error.
_LOG_LINES = 200
_SENTENCE_LINES = 3
_SENTENCE_CHARACTERS = 900
_CAUSE = re.compile(r"error|fail|fatal|abort|denied|unknown|invalid|core dumped|killed|exception", re.IGNORECASE)
# The date, thread and source line before a message of TensorFlow.
_PREFIX = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.,]\d+:? ?)?([IWEF] )?(\S+\.(cc|h|py):\d+\] )?")
# The server's own summary of a failed start; it names the cause and is quoted alone.
_START_ERROR = re.compile(r"Failed to start server\. Error: (.*)")

# Exit codes of SIGKILL, SIGTERM, SIGINT and SIGHUP: a model that crashes the server gives SIGSEGV's or SIGABRT's.
_KILLED = tuple(128 + number for number in (9, 15, 2, 1))

Connect = Callable[[], ContainerEngine]


class ServerDied(LoadFailed):
    """The model server ended by itself; ``log`` is the end of its log."""

    def __init__(self, cause: str, remedy: str, *, log: str) -> None:
        super().__init__(cause, remedy)
        self.log = log


class ServerKilled(LoadInterrupted):
    """The model server was killed, for example for want of memory; ``log`` is the end of its log."""

    def __init__(self, cause: str, remedy: str, *, log: str) -> None:
        super().__init__(cause, remedy)
        self.log = log


class Lifecycle(str, Enum):
    """The state of a ModelServerContainer."""

    NEW = "new"
    STARTING = "starting"
    LISTENING = "listening"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A started server: its addresses (host:port) and its container."""

    grpc: str
    rest: str
    container: str
    name: str
    instance: str


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """How a model gets into the container: mounts, and local directories to copy in, by path in the container."""

    mounts: tuple[Mount, ...] = ()
    copies: Mapping[str, str] | None = None


class ModelServerContainer:
    """One model server in one container; as a context manager it starts and stops the server.

    :param connect: opens a connection to the engine; `stop` opens one of its own.
    :param start_seconds: how long the ports may take to open, including the load of the first versions.
    """

    def __init__(
        self,
        options: ServerOptions,
        owner: Owner,
        *,
        connect: Connect,
        clock: Clock | None = None,
        start_seconds: float = 120.0,
        model_files: ModelFiles = ModelFiles(),
    ) -> None:
        _require_reachable(options)
        self.options = options
        self.state = Lifecycle.NEW
        self._owner = owner
        self._connect = connect
        self._clock = clock or SystemClock()
        self._start_seconds = start_seconds
        self._model_files = model_files
        self._instance = uuid.uuid4().hex
        self._name = options.name or f"tfs-deploy-{owner.purpose.value}-{self._instance[:12]}"
        self._create_requested = False
        # The engine's id; empty until the engine has replied.
        self.container = ""
        self._grpc = ("", 0)
        self._stop_requested = False

    def __enter__(self) -> RunningServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> RunningServer:
        """Create and start the container, and return when its ports listen.

        Raises InvalidInput for options, NotFound for an image or a directory, Refused for a taken port or a missing
        GPU, ServerDied when the server ends (ServerKilled, LoadInterrupted or SetupError where no
        model is at fault), DeadlineExceeded, Unreachable; no container is left then.
        """
        if self.state is not Lifecycle.NEW:
            raise Refused(f"Container {self._name} was started before.", "Create another one.")
        self.state = Lifecycle.STARTING
        try:
            engine = self._connect()
            try:
                running = self._start(engine)
            finally:
                engine.close()
        except BaseException:
            self.stop()
            raise
        self.state = Lifecycle.LISTENING
        return running

    def require_running(self) -> None:
        """Raise ServerDied or ServerKilled with the end of its log if the server has ended.

        A process that ends closes its port before the engine knows of its end.
        """
        if self.state is not Lifecycle.LISTENING or self._stop_requested:
            return
        deadline = Deadline.after(_ENGINE_LAG_SECONDS, self._clock)
        engine = self._connect()
        try:
            while True:
                self._require_alive(engine, engine.inspect(self.container))
                if _accepts_connections(*self._grpc) or deadline.passed():
                    return
                self._clock.sleep(_POLL_SECONDS)
        finally:
            engine.close()

    def stop(self) -> None:
        """Stop and remove the container, if it exists."""
        self._stop_requested = True
        if not self._create_requested:
            self.state = Lifecycle.STOPPED
            return
        engine = self._connect()
        try:
            for container in self._own_containers(engine):
                engine.stop(container)
                engine.remove(container)
                logger.info("Removed container %s", self._name)
        finally:
            engine.close()
        self.state = Lifecycle.STOPPED

    def _start(self, engine: ContainerEngine) -> RunningServer:
        host_ports = self._host_ports()
        line = command_line(self.options, host_ports=host_ports)
        engine.require_image(self.options.image)
        self._require_not_stopped()
        self.container = self._create(engine, line)
        self._require_not_stopped()
        if line.files or self._model_files.copies:
            engine.copy_in(self.container, line.files, self._model_files.copies or {})
        self._require_not_stopped()
        engine.start(self.container)
        logger.info("Started container %s of %s", self._name, self.options.image)
        return self._wait_for_port(engine, host_ports)

    def _create(self, engine: ContainerEngine, line: CommandLine) -> str:
        self._create_requested = True
        try:
            return engine.create(self._spec(engine, line))
        except Permanent:
            # The engine refused: no container exists.
            self._create_requested = False
            raise

    def _require_not_stopped(self) -> None:
        if self._stop_requested:
            raise Refused(f"Container {self._name} was stopped while it started.", "Start another one.")

    def _host_ports(self) -> tuple[int, int] | None:
        if self.options.network != HOST_NETWORK:
            return None
        ports = self.options.ports
        return ports.grpc or _free_port(), ports.rest or _free_port()

    def _spec(self, engine: ContainerEngine, line: CommandLine) -> ContainerSpec:
        options, ports = self.options, self.options.ports
        published: tuple[PublishedPort, ...] = ()
        if ports.publish and options.network != HOST_NETWORK:
            address = ports.address or (_LOOPBACK if engine.local else _ALL_ADDRESSES)
            published = (
                PublishedPort(GRPC_PORT, address, ports.grpc),
                PublishedPort(REST_PORT, address, ports.rest),
            )
        root = options.model_root
        own = (Mount(root.directory or root.volume, root.target, bool(root.volume), root.read_only),) if root else ()
        return ContainerSpec(
            image=options.image,
            arguments=line.arguments,
            environment=line.environment,
            labels=self._owner.labels(self._instance),
            name=self._name,
            mounts=(*own, *self._model_files.mounts),
            ports=published,
            gpus=options.gpus,
            limits=options.limits,
            network=options.network,
            user=options.user,
            restart=options.restart,
            stop_seconds=options.stop_seconds,
        )

    def _wait_for_port(self, engine: ContainerEngine, host_ports: tuple[int, int] | None) -> RunningServer:
        deadline = Deadline.after(self._start_seconds, self._clock)
        while True:
            state = engine.inspect(self.container)
            self._require_not_stopped()
            self._require_alive(engine, state)
            grpc, rest = self._addresses(engine, state, host_ports)
            if state.running and _accepts_connections(*grpc):
                self._grpc = grpc
                grpc_at, rest_at = (f"{host}:{port}" for host, port in (grpc, rest))
                return RunningServer(grpc_at, rest_at, self.container, self._name, self._instance)
            if deadline.passed():
                log = engine.log(self.container, lines=_LOG_LINES)
                raise DeadlineExceeded(
                    f"The model server in container {self._name} ({self.options.image}) opened no port within "
                    f"{self._start_seconds:.0f} s. The end of its log: {log_excerpt(log)}",
                    "Check that its base path holds a version; it opens no port before one is loaded.",
                )
            self._clock.sleep(_POLL_SECONDS)

    def _addresses(
        self, engine: ContainerEngine, state: ContainerState, host_ports: tuple[int, int] | None
    ) -> tuple[tuple[str, int], tuple[str, int]]:
        if host_ports is not None:
            return (engine.host, host_ports[0]), (engine.host, host_ports[1])
        if not self.options.ports.publish:
            return (self._name, GRPC_PORT), (self._name, REST_PORT)
        return (engine.host, state.ports.get(GRPC_PORT, 0)), (engine.host, state.ports.get(REST_PORT, 0))

    def _require_alive(self, engine: ContainerEngine, state: ContainerState) -> None:
        if state.running or not state.started or self._restarts_by_itself(state):
            return
        log = engine.log(self.container, lines=_LOG_LINES)
        logger.error("Log of container %s:\n%s", self._name, log)
        named = f"The model server in container {self._name} ({self.options.image})"
        if state.killed_for_memory:
            raise ServerKilled(
                f"{named} was killed for using more memory than its limit {self.options.limits.memory or '(none)'}.",
                "Give it more memory, or a smaller model.",
                log=log,
            )
        if state.exit_code in _KILLED:
            raise ServerKilled(
                f"{named} was killed from outside (code {state.exit_code}). The end of its log: {log_excerpt(log)}",
                "Look for want of memory on the engine's machine, then try again.",
                log=log,
            )
        cause = f"{named} ended with code {state.exit_code}. The end of its log: {log_excerpt(log)}"
        error = load_error(code_in_log(log), cause)
        if not isinstance(error, LoadFailed):
            raise error
        raise ServerDied(cause, "Correct the cause; the task's or command's own log holds the server's log.", log=log)

    def _restarts_by_itself(self, state: ContainerState) -> bool:
        policy = self.options.restart
        limit = policy.retries or float("inf")
        return policy.policy.value != "no" and state.restarts < limit

    def _own_containers(self, engine: ContainerEngine) -> tuple[str, ...]:
        """Return the ids of the containers with our label; wait for one whose creation was under way."""
        deadline = Deadline.after(0.0 if self.container else _ENGINE_LAG_SECONDS, self._clock)
        while True:
            containers = engine.find({INSTANCE_LABEL: self._instance})
            if containers or deadline.passed():
                return tuple(container.id for container in containers)
            self._clock.sleep(_POLL_SECONDS)


def log_excerpt(log: str) -> str:
    """Return the last lines that name a cause, short enough for an error; a fixed text for an empty log."""
    lines = [_PREFIX.sub("", line).strip() for line in log.splitlines()]
    lines = [line for line in lines if line]
    start_errors = [match[1] for line in lines if (match := _START_ERROR.search(line))]
    causes = list(dict.fromkeys(line for line in lines if _CAUSE.search(line)))
    quoted = start_errors[-1:] or causes[-_SENTENCE_LINES:] or lines[-_SENTENCE_LINES:]
    text = " / ".join(quoted) or "it wrote nothing"
    return text if len(text) <= _SENTENCE_CHARACTERS else f"…{text[-_SENTENCE_CHARACTERS:]}"


def _require_reachable(options: ServerOptions) -> None:
    if not options.ports.publish and options.network in ("", HOST_NETWORK):
        raise InvalidInput(
            "The options publish no port and name no network of the engine, so the server cannot be reached.",
            "Name the network that the workers are in, or leave ports.publish out.",
        )
    if options.model is None and not options.files.model_config:
        raise InvalidInput(
            "The options name neither a model nor files.model_config.", "Name one of them, or the server ends at once."
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _accepts_connections(host: str, port: int) -> bool:
    """Tell whether a server is behind the port: it sends something or holds the connection."""
    try:
        probe = socket.create_connection((host, port), timeout=_CONNECT_SECONDS)
    except OSError:
        return False
    with probe:
        probe.settimeout(_HOLD_SECONDS)
        try:
            return probe.recv(1) != b""
        except TimeoutError:
            return True
        except OSError:
            return False
