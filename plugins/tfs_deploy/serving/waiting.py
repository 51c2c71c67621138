"""When a version counts as loaded on a whole group: one decision, driven by a blocking and by an asyncio loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from tfs_deploy.clock import Clock
from tfs_deploy.errors import Contention, DeadlineExceeded, LoadFailed, Transient, Unreachable
from tfs_deploy.serving.protocol import ServingClient, VersionState, VersionStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WaitLimits:
    """How long each phase may take, in seconds.

    `discovery`: until the server lists the version (one poll of the file system, a listing, a sync agent's lag);
    `load`: until every replica is AVAILABLE, all in all; `stale_end`: for how long an END row that was there from the
    start may be the trace of an earlier life of the number (contract 6: 2 x poll + 2 s); `interval`: between
    two looks; `rpc`: for one GetModelStatus.
    """

    discovery: float = 60.0
    load: float = 300.0
    stale_end: float = 4.0
    interval: float = 0.2
    rpc: float = 5.0


class AsyncStatusReader(Protocol):
    """The one coroutine of an asyncio client that waiting needs."""

    async def status(self, model: str, version: int | None = None, *, timeout: float) -> tuple[VersionStatus, ...]:
        """Return the rows of `version`, none if the server does not know it."""


@dataclass(frozen=True, slots=True)
class _Seen:
    state: VersionState | None = None
    error: str = ""
    ever_alive: bool = False
    unreachable: str = ""


class GroupWatch:
    """Judge what the replicas report about one version; holds no clock and does no I/O."""

    def __init__(self, model: str, version: int, targets: Iterable[str], *, limits: WaitLimits, started: float) -> None:
        self._model = model
        self._version = version
        self._limits = limits
        self._started = started
        self._seen = {target: _Seen() for target in targets}

    @property
    def pending(self) -> tuple[str, ...]:
        """The replicas that are not yet AVAILABLE."""
        return tuple(target for target, seen in self._seen.items() if seen.state is not VersionState.AVAILABLE)

    def report(self, target: str, rows: tuple[VersionStatus, ...], *, at: float) -> None:
        """Take in what `target` answered; raise LoadFailed when it says that the version will not come.

        Raises Contention when it has let go of it without an error: somebody changed its config.
        """
        row = next((row for row in rows if row.version == self._version), None)
        before = self._seen[target]
        state = row.state if row else None
        alive = before.ever_alive or state in (VersionState.START, VersionState.LOADING, VersionState.AVAILABLE)
        error = f"{row.error_code}: {row.error_message}" if row and row.error_code != "OK" else ""
        if state is not before.state:
            logger.info("Version %s of %s on %s: %s", self._version, self._model, target, state.value if state else "-")
        self._seen[target] = _Seen(state, error, alive)
        if row is None or state is not VersionState.END:
            return
        stale = not alive and at - self._started < self._limits.stale_end
        if stale:
            return
        if error:
            raise LoadFailed(
                f"Replica {target} could not load version {self._version} of model {self._model!r}: {error}",
                "Correct the export and publish it again: the number is not used twice.",
            )
        # No fault of the version, which must not be rejected for it.
        raise Contention(
            f"Replica {target} unloaded version {self._version} of model {self._model!r} while it was waited for.",
            "Somebody changed the config of this group; look at `tfs-deploy history` and try again.",
        )

    def missed(self, target: str, error: Transient) -> None:
        """Take in that `target` did not answer; it may yet."""
        before = self._seen[target]
        self._seen[target] = _Seen(None, before.error, before.ever_alive, unreachable=error.cause)

    def settled(self, *, at: float) -> bool:
        """Tell whether every replica is AVAILABLE; raise Unreachable or DeadlineExceeded when time is up."""
        waited = at - self._started
        for target in self.pending:
            seen = self._seen[target]
            if seen.unreachable and waited >= self._limits.load:
                raise Unreachable(
                    f"Replica {target} did not answer for {waited:.0f} s: {seen.unreachable}",
                    "Start it, or take it out of the serving group.",
                )
            if seen.state is None and not seen.unreachable and waited >= self._limits.discovery:
                raise DeadlineExceeded(
                    f"Replica {target} did not see version {self._version} of model {self._model!r} "
                    f"within {waited:.0f} s.",
                    "Check that the model root of the group is the directory this server reads, and its poll period.",
                )
            if waited >= self._limits.load:
                state = seen.state.value if seen.state else "unknown"
                raise DeadlineExceeded(
                    f"Replica {target} still shows version {self._version} of model {self._model!r} as {state} "
                    f"after {waited:.0f} s.",
                    "Allow more time, or read the server's log.",
                )
        return not self.pending


def wait_until_available(
    clients: Mapping[str, ServingClient],
    model: str,
    version: int,
    *,
    limits: WaitLimits,
    clock: Clock,
) -> None:
    """Block until `version` is AVAILABLE on every replica.

    Raises LoadFailed, Contention (somebody unloaded it), DeadlineExceeded or Unreachable.
    """
    watch = GroupWatch(model, version, clients, limits=limits, started=clock.monotonic())
    with ThreadPoolExecutor(max_workers=max(1, min(len(clients), 16))) as pool:
        while True:
            asked = {
                target: pool.submit(_look, clients[target], model, version, limits.rpc) for target in watch.pending
            }
            for target, answer in asked.items():
                _take(watch, target, answer.result(), clock.monotonic())
            if watch.settled(at=clock.monotonic()):
                return
            clock.sleep(limits.interval)


def wait_until_gone(
    clients: Mapping[str, ServingClient], model: str, version: int, *, limits: WaitLimits, clock: Clock
) -> None:
    """Block until no replica holds `version` any more; raise DeadlineExceeded or Unreachable after `limits.load`.

    A version that was taken back before its load began stays START for ever (contract 4.3): that counts as gone when
    it has not moved for `limits.stale_end`.
    """
    started = clock.monotonic()
    left = dict(clients)
    while True:
        waited = clock.monotonic() - started
        for target, client in list(left.items()):
            answer = _look(client, model, version, limits.rpc)
            if isinstance(answer, Transient):
                if waited >= limits.load:
                    raise answer
                continue
            states = {row.state for row in answer if row.version == version}
            dropped = states == {VersionState.START} and waited >= limits.stale_end
            if states <= {VersionState.END} or dropped:
                del left[target]
        if not left:
            return
        if waited >= limits.load:
            raise DeadlineExceeded(
                f"Replica {next(iter(left))} still holds version {version} of model {model!r} after {waited:.0f} s.",
                "Look for requests that never end: a server drains them before it unloads.",
            )
        clock.sleep(limits.interval)


def _look(client: ServingClient, model: str, version: int, timeout: float) -> tuple[VersionStatus, ...] | Transient:
    try:
        return client.status(model, version, timeout=timeout)
    except Transient as error:
        return error


def _take(watch: GroupWatch, target: str, answer: tuple[VersionStatus, ...] | Transient, at: float) -> None:
    if isinstance(answer, Transient):
        watch.missed(target, answer)
    else:
        watch.report(target, answer, at=at)


async def wait_until_available_aio(
    clients: Mapping[str, AsyncStatusReader], model: str, version: int, *, limits: WaitLimits, clock: Clock
) -> None:
    """Do what `wait_until_available` does without blocking the event loop."""

    async def look(target: str) -> tuple[str, tuple[VersionStatus, ...] | Transient]:
        try:
            return target, await clients[target].status(model, version, timeout=limits.rpc)
        except Transient as error:
            return target, error

    watch = GroupWatch(model, version, clients, limits=limits, started=clock.monotonic())
    while True:
        for target, answer in await asyncio.gather(*(look(target) for target in watch.pending)):
            _take(watch, target, answer, clock.monotonic())
        if watch.settled(at=clock.monotonic()):
            return
        await asyncio.sleep(limits.interval)
