"""Who a container belongs to, written on it, so that leftovers can be told from what somebody still needs."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tfs_deploy.clock import Clock
from tfs_deploy.containers.engine import ContainerEngine, Found

logger = logging.getLogger(__name__)

PROJECT = "tfs_deploy"
_PREFIX = "tfs_deploy."
PROJECT_LABEL = f"{_PREFIX}project"
INSTANCE_LABEL = f"{_PREFIX}instance"
PURPOSE_LABEL = f"{_PREFIX}purpose"
DAG_LABEL = f"{_PREFIX}dag"
RUN_LABEL = f"{_PREFIX}run"
TASK_LABEL = f"{_PREFIX}task"
_PROCESS_LABEL = f"{_PREFIX}process"
_UNTIL_LABEL = f"{_PREFIX}until"


class Purpose(str, Enum):
    """What a container is for: `throw-away` ends with its process, `run` with its DAG run, `long-lived` with nobody."""

    THROW_AWAY = "throw-away"
    RUN = "run"
    LONG_LIVED = "long-lived"


@dataclass(frozen=True, slots=True)
class Process:
    """A process of one machine, not to be confused with a later one of the same number.

    `host` is the machine's name and the id of its boot and of the process's own PID namespace; `started` counts the
    kernel's ticks since the boot.
    """

    host: str
    pid: int
    started: int

    @classmethod
    def this(cls) -> Process:
        """Return the one that runs this."""
        pid = os.getpid()
        return cls(_host(), pid, _started(pid) or 0)

    @classmethod
    def parse(cls, text: str) -> Process | None:
        """Return what `str` of a Process wrote; None for anything else."""
        host, _, rest = text.rpartition("/")
        pid, _, started = rest.partition("@")
        return cls(host, int(pid), int(started)) if host and pid.isdigit() and started.isdigit() else None

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}@{self.started}"

    def alive(self) -> bool | None:
        """Tell whether it runs; None if it is a process of another machine, container or boot that is not ours."""
        if self.host != _host():
            return None
        return _started(self.pid) == self.started


@dataclass(frozen=True, slots=True)
class Owner:
    """For whom a container was started; `until` (UNIX seconds) is when it is a leftover whoever it was, 0: never."""

    purpose: Purpose
    process: Process | None
    dag: str = ""
    run: str = ""
    task: str = ""
    until: int = 0

    def labels(self, instance: str) -> dict[str, str]:
        """Return the labels of a container of this owner; `instance` is unlike any other's."""
        return {
            PROJECT_LABEL: PROJECT,
            INSTANCE_LABEL: instance,
            PURPOSE_LABEL: self.purpose.value,
            DAG_LABEL: self.dag,
            RUN_LABEL: self.run,
            TASK_LABEL: self.task,
            _PROCESS_LABEL: str(self.process or ""),
            _UNTIL_LABEL: str(self.until),
        }


def owner_of(labels: Mapping[str, str]) -> Owner | None:
    """Return whose a container with `labels` is; None if it is none of ours."""
    purposes = {purpose.value: purpose for purpose in Purpose}
    purpose = purposes.get(labels.get(PURPOSE_LABEL, ""))
    if labels.get(PROJECT_LABEL) != PROJECT or purpose is None:
        return None
    until = labels.get(_UNTIL_LABEL, "")
    return Owner(
        purpose,
        Process.parse(labels.get(_PROCESS_LABEL, "")),
        dag=labels.get(DAG_LABEL, ""),
        run=labels.get(RUN_LABEL, ""),
        task=labels.get(TASK_LABEL, ""),
        until=int(until) if until.isdigit() else 0,
    )


# Tells whether a DAG run goes on; None: nobody knows.
RunIsAlive = Callable[[str, str], bool | None]


@dataclass(frozen=True, slots=True)
class Leftover:
    """A container that nobody needs, and why."""

    id: str
    name: str
    owner: Owner
    why: str


def leftovers(engine: ContainerEngine, *, clock: Clock, run_is_alive: RunIsAlive | None = None) -> tuple[Leftover, ...]:
    """Return the containers of this project that nobody needs any more; looks and removes nothing.

    A throw-away one ends with its process; one of a DAG run with that run, where `run_is_alive` knows about it; either
    with its time. One that is long-lived never does, nor one that somebody else started.
    """
    now = int(clock.now().timestamp())
    found = (_judge(one, now, run_is_alive) for one in engine.find({PROJECT_LABEL: PROJECT}))
    return tuple(one for one in found if one is not None)


def reap(engine: ContainerEngine, *, clock: Clock, run_is_alive: RunIsAlive | None = None) -> tuple[Leftover, ...]:
    """Remove what `leftovers` finds and return it; two reapers at the same time do no harm."""
    gone = leftovers(engine, clock=clock, run_is_alive=run_is_alive)
    for one in gone:
        engine.remove(one.id)
        logger.info("Removed leftover container %s: %s", one.name or one.id, one.why)
    return gone


def _judge(found: Found, now: int, run_is_alive: RunIsAlive | None) -> Leftover | None:
    owner = owner_of(found.labels)
    if owner is None or owner.purpose is Purpose.LONG_LIVED:
        return None
    why = _why(owner, now, run_is_alive)
    return Leftover(found.id, found.name, owner, why) if why else None


def _why(owner: Owner, now: int, run_is_alive: RunIsAlive | None) -> str:
    if owner.purpose is Purpose.THROW_AWAY and owner.process and owner.process.alive() is False:
        return f"process {owner.process.pid} has ended"
    if owner.purpose is Purpose.RUN and owner.run and run_is_alive and run_is_alive(owner.dag, owner.run) is False:
        return f"run {owner.run} of DAG {owner.dag} is over"
    if owner.until and owner.until <= now:
        return "its time is over"
    return ""


def _host() -> str:
    # A container may have the host name of another one: boot and PID namespace tell whose numbers these are.
    namespace = _read("/proc/self/ns/pid", link=True)
    return f"{socket.gethostname()}/{_read('/proc/sys/kernel/random/boot_id')}/{namespace}"


def _read(path: str, *, link: bool = False) -> str:
    try:
        return os.readlink(path) if link else Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _started(pid: int) -> int | None:
    """Return when `pid` began, in ticks since the boot; None if it has ended, or only waits for its parent."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field, the name, may hold blanks and brackets; the third is the state, the 22nd the start.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
