"""The owner of a container, stored in its labels, and the removal of containers whose owner is gone."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tfs_deploy.clock import Clock
from tfs_deploy.containers.engine import ContainerEngine, ListedContainer

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
    """When a container becomes a leftover: with its process, with its DAG run, or never."""

    THROW_AWAY = "throw-away"
    RUN = "run"
    LONG_LIVED = "long-lived"


@dataclass(frozen=True, slots=True)
class Process:
    """A process of one machine, distinct from a later one with the same number.

    `host` joins the machine's name, the id of its boot and the process's PID namespace; `started` is in the kernel's
    ticks since the boot.
    """

    host: str
    pid: int
    started: int

    @classmethod
    def current(cls) -> Process:
        """Return the process that runs this code."""
        pid = os.getpid()
        return cls(_host(), pid, _started(pid) or 0)

    @classmethod
    def parse(cls, text: str) -> Process | None:
        """Parse the `str` of a Process; return None for any other text."""
        host, _, rest = text.rpartition("/")
        pid, _, started = rest.partition("@")
        return cls(host, int(pid), int(started)) if host and pid.isdigit() and started.isdigit() else None

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}@{self.started}"

    def alive(self) -> bool | None:
        """Tell whether it runs; None for a process of another machine, container or boot."""
        if self.host != _host():
            return None
        return _started(self.pid) == self.started


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of a container; after `until` (UNIX seconds) it is a leftover in any case, 0: never."""

    purpose: Purpose
    process: Process | None
    dag: str = ""
    run: str = ""
    task: str = ""
    until: int = 0

    def labels(self, instance: str) -> dict[str, str]:
        """Return the labels of a container of this owner; `instance` is unique."""
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
    """Return the owner of a container with `labels`; None for a container of another project."""
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


# Tells whether a DAG run goes on; None: unknown.
RunIsAlive = Callable[[str, str], bool | None]


@dataclass(frozen=True, slots=True)
class Leftover:
    """A container to remove, and the reason."""

    id: str
    name: str
    owner: Owner
    reason: str


def leftovers(engine: ContainerEngine, *, clock: Clock, run_is_alive: RunIsAlive | None = None) -> tuple[Leftover, ...]:
    """Return the leftovers of this project without removing them.

    A throw-away container is one when its process has ended, that of a DAG run when `run_is_alive` denies the run, and
    both after their time. A long-lived container and one of another project never are.
    """
    now = int(clock.now().timestamp())
    containers = engine.find({PROJECT_LABEL: PROJECT})
    checked = (_leftover(container, now, run_is_alive) for container in containers)
    return tuple(leftover for leftover in checked if leftover is not None)


def reap(engine: ContainerEngine, *, clock: Clock, run_is_alive: RunIsAlive | None = None) -> tuple[Leftover, ...]:
    """Remove the leftovers and return them; two processes may do so at the same time."""
    removed = leftovers(engine, clock=clock, run_is_alive=run_is_alive)
    for leftover in removed:
        engine.remove(leftover.id)
        logger.info("Removed leftover container %s: %s", leftover.name or leftover.id, leftover.reason)
    return removed


def _leftover(container: ListedContainer, now: int, run_is_alive: RunIsAlive | None) -> Leftover | None:
    owner = owner_of(container.labels)
    if owner is None or owner.purpose is Purpose.LONG_LIVED:
        return None
    reason = _reason(owner, now, run_is_alive)
    return Leftover(container.id, container.name, owner, reason) if reason else None


def _reason(owner: Owner, now: int, run_is_alive: RunIsAlive | None) -> str:
    if owner.purpose is Purpose.THROW_AWAY and owner.process and owner.process.alive() is False:
        return f"process {owner.process.pid} has ended"
    if owner.purpose is Purpose.RUN and owner.run and run_is_alive and run_is_alive(owner.dag, owner.run) is False:
        return f"run {owner.run} of DAG {owner.dag} is over"
    if owner.until and owner.until <= now:
        return "its time is over"
    return ""


def _host() -> str:
    # Containers may share a host name: boot and PID namespace identify whose process numbers these are.
    namespace = _read("/proc/self/ns/pid", link=True)
    return f"{socket.gethostname()}/{_read('/proc/sys/kernel/random/boot_id')}/{namespace}"


def _read(path: str, *, link: bool = False) -> str:
    try:
        return os.readlink(path) if link else Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _started(pid: int) -> int | None:
    """Return the start of `pid` in ticks since the boot; None if it has ended or is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field, the name, may hold blanks and brackets; the third is the state, the 22nd the start.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
