"""A model server in a container, from before it is made until nothing of it is left.

Life cycle::

    NEW ──start──► STARTING ──ports open──► LISTENING ──stop──► STOPPED
                       │                        │
                       └── the server ends ─────┴─► `require_running` and `start` raise ServerDied with its last words

`start` either returns with ports that listen, or raises and leaves no container. `stop` may be called in every state,
any number of times, by another thread or a signal handler, also while `start` runs: what this object makes carries a
label that was drawn before the engine was asked for anything, so it is found even if the engine's answer never came.

It starts, watches and stops; it never speaks to the model server. `tfs_deploy.serving` does that.
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
from tfs_deploy.containers.engine import ContainerEngine, ContainerSpec, Look, Mount, PublishedPort
from tfs_deploy.containers.options import ServerOptions
from tfs_deploy.containers.ownership import INSTANCE_LABEL, Owner
from tfs_deploy.errors import DeadlineExceeded, InvalidInput, LoadFailed, Permanent, Refused

logger = logging.getLogger(__name__)

HOST_NETWORK = "host"
_LOOPBACK = "127.0.0.1"
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - where the engine is on another machine, and told in the options
_POLL_SECONDS = 0.1
_CONNECT_SECONDS = 1.0
# A port that the engine forwards takes every connection, and drops it at once when nobody listens behind.
_HELD_SECONDS = 0.3
# How long the engine may take to know what happened: a container whose creation was under way, a process that ends.
_LATE_SECONDS = 5.0
# How much of the log is read, and how much of it goes into the sentence.
_LOG_LINES = 200
_SENTENCE_LINES = 3
_SENTENCE_CHARACTERS = 900
_TELLING = re.compile(r"error|fail|fatal|abort|denied|unknown|invalid|core dumped|killed|exception", re.IGNORECASE)
# The date, thread and place that TensorFlow writes before its words.
_PREFIX = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.,]\d+:? ?)?([IWEF] )?(\S+\.(cc|h|py):\d+\] )?")
# What the server says of the start as a whole: it names the reason, and is the one line to quote if there is one.
_VERDICT = re.compile(r"Failed to start server\. Error: (.*)")

Connect = Callable[[], ContainerEngine]


class ServerDied(LoadFailed):
    """The model server ended by itself; ``log`` is the end of what it wrote."""

    def __init__(self, cause: str, remedy: str, *, log: str) -> None:
        super().__init__(cause, remedy)
        self.log = log


class State(str, Enum):
    """Where in its life a ModelServerContainer is."""

    NEW = "new"
    STARTING = "starting"
    LISTENING = "listening"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class RunningServer:
    """How a started server is reached (host:port), and what it runs in."""

    grpc: str
    rest: str
    container: str
    name: str
    instance: str


@dataclass(frozen=True, slots=True)
class Extra:
    """What one use adds to the options: mounts, and local directories that are copied in, by path in the container."""

    mounts: tuple[Mount, ...] = ()
    copies: Mapping[str, str] | None = None


class ModelServerContainer:
    """One model server in one container; also a context that starts and stops it.

    :param connect: opens a connection to the engine; `stop` opens one of its own.
    :param start_seconds: how long the ports may take to open, the load of the first versions included.
    """

    def __init__(
        self,
        options: ServerOptions,
        owner: Owner,
        *,
        connect: Connect,
        clock: Clock | None = None,
        start_seconds: float = 120.0,
        extra: Extra = Extra(),
    ) -> None:
        _require_reachable(options)
        self.options = options
        self.state = State.NEW
        self._owner = owner
        self._connect = connect
        self._clock = clock or SystemClock()
        self._start_seconds = start_seconds
        self._extra = extra
        self._instance = uuid.uuid4().hex
        self._name = options.name or f"tfs-deploy-{owner.purpose.value}-{self._instance[:12]}"
        self._asked = False
        # The engine's id of it; empty until the engine has said it.
        self.container = ""
        self._grpc = ("", 0)
        self._unwanted = False

    def __enter__(self) -> RunningServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> RunningServer:
        """Make the container, start it, and return when its ports listen.

        Raises InvalidInput for options, NotFound for an image or a directory, Refused for a taken port or a missing
        GPU, ServerDied when the server ends, DeadlineExceeded, Unreachable. Nothing is left then.
        """
        if self.state is not State.NEW:
            raise Refused(f"Container {self._name} was started before.", "Make another one.")
        self.state = State.STARTING
        try:
            engine = self._connect()
            try:
                running = self._start(engine)
            finally:
                engine.close()
        except BaseException:
            self.stop()
            raise
        self.state = State.LISTENING
        return running

    def require_running(self) -> None:
        """Raise ServerDied with the server's last words if it has ended by itself.

        A process that ends (and writes a core, say) closes its port before the engine knows of its end.
        """
        if self.state is not State.LISTENING or self._unwanted:
            return
        deadline = Deadline.after(_LATE_SECONDS, self._clock)
        engine = self._connect()
        try:
            while True:
                self._require_alive(engine, engine.look(self.container))
                if _listens(*self._grpc) or deadline.passed():
                    return
                self._clock.sleep(_POLL_SECONDS)
        finally:
            engine.close()

    def stop(self) -> None:
        """Stop and remove whatever there is of it."""
        self._unwanted = True
        if not self._asked:
            self.state = State.STOPPED
            return
        engine = self._connect()
        try:
            for container in self._all_of_it(engine):
                engine.stop(container)
                engine.remove(container)
                logger.info("Removed container %s", self._name)
        finally:
            engine.close()
        self.state = State.STOPPED

    def _start(self, engine: ContainerEngine) -> RunningServer:
        host_ports = self._host_ports()
        line = command_line(self.options, host_ports=host_ports)
        engine.require_image(self.options.image)
        self._require_wanted()
        self.container = self._create(engine, line)
        self._require_wanted()
        if line.files or self._extra.copies:
            engine.copy_in(self.container, line.files, self._extra.copies or {})
        self._require_wanted()
        engine.start(self.container)
        logger.info("Started container %s of %s", self._name, self.options.image)
        return self._wait(engine, host_ports)

    def _create(self, engine: ContainerEngine, line: CommandLine) -> str:
        self._asked = True
        try:
            return engine.create(self._spec(engine, line))
        except Permanent:
            # The engine said no: there is nothing to look for.
            self._asked = False
            raise

    def _require_wanted(self) -> None:
        if self._unwanted:
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
            address = ports.address or (_LOOPBACK if engine.local else _EVERYWHERE)
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
            mounts=(*own, *self._extra.mounts),
            ports=published,
            gpus=options.gpus,
            limits=options.limits,
            network=options.network,
            user=options.user,
            restart=options.restart,
            stop_seconds=options.stop_seconds,
        )

    def _wait(self, engine: ContainerEngine, host_ports: tuple[int, int] | None) -> RunningServer:
        deadline = Deadline.after(self._start_seconds, self._clock)
        while True:
            look = engine.look(self.container)
            self._require_wanted()
            self._require_alive(engine, look)
            grpc, rest = self._addresses(engine, look, host_ports)
            if look.running and _listens(*grpc):
                self._grpc = grpc
                grpc_at, rest_at = (f"{host}:{port}" for host, port in (grpc, rest))
                return RunningServer(grpc_at, rest_at, self.container, self._name, self._instance)
            if deadline.passed():
                log = engine.log(self.container, lines=_LOG_LINES)
                raise DeadlineExceeded(
                    f"The model server in container {self._name} ({self.options.image}) opened no port within "
                    f"{self._start_seconds:.0f} s. Its last words: {log_excerpt(log)}",
                    "Check that its base path holds a version; it opens no port before one is loaded.",
                )
            self._clock.sleep(_POLL_SECONDS)

    def _addresses(
        self, engine: ContainerEngine, look: Look, host_ports: tuple[int, int] | None
    ) -> tuple[tuple[str, int], tuple[str, int]]:
        if host_ports is not None:
            return (engine.host, host_ports[0]), (engine.host, host_ports[1])
        if not self.options.ports.publish:
            return (self._name, GRPC_PORT), (self._name, REST_PORT)
        return (engine.host, look.ports.get(GRPC_PORT, 0)), (engine.host, look.ports.get(REST_PORT, 0))

    def _require_alive(self, engine: ContainerEngine, look: Look) -> None:
        if look.running or not look.started or self._restarts_by_itself(look):
            return
        log = engine.log(self.container, lines=_LOG_LINES)
        logger.error("Log of container %s:\n%s", self._name, log)
        named = f"The model server in container {self._name} ({self.options.image})"
        if look.killed_for_memory:
            raise ServerDied(
                f"{named} was killed for using more memory than its limit {self.options.limits.memory or '(none)'}.",
                "Give it more memory, or a smaller model.",
                log=log,
            )
        raise ServerDied(
            f"{named} ended with code {look.exit_code}. Its last words: {log_excerpt(log)}",
            "Correct what it names; its whole log is in ours.",
            log=log,
        )

    def _restarts_by_itself(self, look: Look) -> bool:
        policy = self.options.restart
        limit = policy.retries or float("inf")
        return policy.policy.value != "no" and look.restarts < limit

    def _all_of_it(self, engine: ContainerEngine) -> tuple[str, ...]:
        """Return the ids of what carries our label; wait a little for one whose creation was under way."""
        deadline = Deadline.after(0.0 if self.container else _LATE_SECONDS, self._clock)
        while True:
            found = engine.find({INSTANCE_LABEL: self._instance})
            if found or deadline.passed():
                return tuple(one.id for one in found)
            self._clock.sleep(_POLL_SECONDS)


def log_excerpt(log: str) -> str:
    """Return the lines that tell why, the last ones first to be kept; a fixed text for an empty log."""
    lines = [_PREFIX.sub("", line).strip() for line in log.splitlines()]
    lines = [line for line in lines if line]
    verdicts = [found[1] for line in lines if (found := _VERDICT.search(line))]
    telling = list(dict.fromkeys(line for line in lines if _TELLING.search(line)))
    chosen = verdicts[-1:] or telling[-_SENTENCE_LINES:] or lines[-_SENTENCE_LINES:]
    text = " / ".join(chosen) or "it wrote nothing"
    return text if len(text) <= _SENTENCE_CHARACTERS else f"…{text[-_SENTENCE_CHARACTERS:]}"


def _require_reachable(options: ServerOptions) -> None:
    if not options.ports.publish and options.network in ("", HOST_NETWORK):
        raise InvalidInput(
            "The options publish no port and name no network of the engine, so nobody reaches the server.",
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


def _listens(host: str, port: int) -> bool:
    """Tell whether a server is behind the port: it says something or holds the connection."""
    try:
        probe = socket.create_connection((host, port), timeout=_CONNECT_SECONDS)
    except OSError:
        return False
    with probe:
        probe.settimeout(_HELD_SECONDS)
        try:
            return probe.recv(1) != b""
        except TimeoutError:
            return True
        except OSError:
            return False
