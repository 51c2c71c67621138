"""When a version counts as loaded on a whole group: one decision for both waits and for a single poll."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tfs_deploy.clock import Clock
from tfs_deploy.errors import (
    Contention,
    DeadlineExceeded,
    Transient,
    Unreachable,
)
from tfs_deploy.serving.base_client import AsyncServingClient, ServingClient
from tfs_deploy.serving.concurrent_calls import call_each
from tfs_deploy.serving.load_errors import UNLOADED_CODES, load_error
from tfs_deploy.serving.replies import VersionState, VersionStatus

logger = logging.getLogger(__name__)

# A pause grows to this share of the time without a change, so a wait lasts at most 0.5 % longer than what it waits for.
_PAUSE_SHARE = 0.005
_LONGEST_PAUSE_SECONDS = 1.0
# Of one wait, over all replicas: a group of 1,000 is polled every 2 s. GetModelStatus is answered from memory.
_POLLS_PER_SECOND = 500.0
# A replica that is busy is polled as if its last change were at most so long ago: every 0.25 s.
_SILENT_SECONDS = 50.0
# Keeps the last pause before the deadline from rounding to no time at all.
_SHORTEST_PAUSE_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class WaitLimits:
    """How long each phase may take, in seconds.

    `discovery`: until the server lists the version (one poll of the file system, a listing, a sync agent's lag);
    `load`: until every replica is AVAILABLE, all in all; `stale_end`: for how long an END row that was there from the
    start may be the trace of an earlier load of the number (contract 6: 2 x poll + 2 s); `interval`: the shortest pause
    between two polls (see `pause_seconds`); `rpc`: for one GetModelStatus.
    """

    discovery: float = 60.0
    load: float = 300.0
    stale_end: float = 4.0
    interval: float = 0.05
    rpc: float = 5.0


def pause_seconds(limits: WaitLimits, *, unchanged: float, pending: int) -> float:
    """Return the pause before the next poll of `pending` replicas, `unchanged` seconds after their last change.

    It is `limits.interval` in the first 10 s after a change (for 0.05 s), grows to 1 s, and holds the polls of all
    replicas together below 500 per second.
    """
    growing = min(unchanged * _PAUSE_SHARE, _LONGEST_PAUSE_SECONDS)
    return max(limits.interval, growing, pending / _POLLS_PER_SECOND)


@dataclass(frozen=True, slots=True)
class _ReplicaState:
    """The last answer of a replica; `unlisted_since`: the first of its latest answers that do not list the version."""

    state: VersionState | None = None
    error: str = ""
    ever_alive: bool = False
    unreachable: str = ""
    available_at: float | None = None
    unlisted_since: float | None = None


class GroupWatch:
    """Decides from the statuses of the replicas whether a version is loaded; holds no clock and does no I/O.

    The blocking wait, the asyncio wait, the trigger and the sensor all decide by it. `own_load`: the caller asked for
    the load, so an unload is the change of another deployer; otherwise the version may be loaded again.
    """

    def __init__(
        self,
        model: str,
        version: int,
        targets: Iterable[str],
        *,
        limits: WaitLimits,
        started: float,
        own_load: bool = True,
    ) -> None:
        self._model = model
        self._version = version
        self._limits = limits
        self._started = started
        self._own_load = own_load
        self._changed_at = started
        self._replicas = {target: _ReplicaState() for target in targets}

    @property
    def pending(self) -> tuple[str, ...]:
        """The replicas that are not yet AVAILABLE."""
        return tuple(
            target for target, replica in self._replicas.items() if replica.state is not VersionState.AVAILABLE
        )

    @property
    def available_at(self) -> dict[str, float]:
        """Return when each replica first answered AVAILABLE, on the axis of `at`; without the pending replicas."""
        return {
            target: replica.available_at
            for target, replica in self._replicas.items()
            if replica.available_at is not None
        }

    def pause(self, *, at: float) -> float:
        """Return the seconds until the next poll, which is not after the deadline of the load."""
        left = max(self._started + self._limits.load - at, _SHORTEST_PAUSE_SECONDS)
        pending = self.pending
        # A replica that did not answer may have changed long ago.
        silent = any(self._replicas[target].unreachable for target in pending)
        unchanged = min(at - self._changed_at, _SILENT_SECONDS if silent else math.inf)
        return min(pause_seconds(self._limits, unchanged=unchanged, pending=len(pending)), left)

    def on_answer(self, target: str, answer: tuple[VersionStatus, ...] | Transient, *, at: float) -> None:
        """Pass on the answer of one GetModelStatus."""
        if isinstance(answer, Transient):
            self.on_error(target, answer)
        else:
            self.on_status(target, answer, at=at)

    def on_status(self, target: str, rows: tuple[VersionStatus, ...], *, at: float) -> None:
        """Note the rows that `target` answered with; raise LoadFailed when it cannot load the version.

        Raises LoadInterrupted or SetupError when the load ended for a reason that says nothing about the version.
        Raises Contention when it unloaded the version without an error: somebody changed its config.
        """
        row = next((row for row in rows if row.version == self._version), None)
        before = self._replicas[target]
        state = row.state if row else None
        alive = before.ever_alive or state in (VersionState.START, VersionState.LOADING, VersionState.AVAILABLE)
        error = f"{row.error_code}: {row.error_message}" if row and row.error_code not in UNLOADED_CODES else ""
        if state is not before.state:
            logger.info("Version %s of %s on %s: %s", self._version, self._model, target, state.value if state else "-")
            self._changed_at = at
        available_at = at if before.available_at is None else before.available_at
        unlisted_since = at if before.unlisted_since is None else before.unlisted_since
        self._replicas[target] = _ReplicaState(
            state,
            error,
            alive,
            available_at=available_at if state is VersionState.AVAILABLE else None,
            unlisted_since=unlisted_since if state is None else None,
        )
        if row is None or state is not VersionState.END:
            return
        stale = not alive and at - self._started < self._limits.stale_end
        if stale:
            return
        if error:
            cause = f"Replica {target} could not load version {self._version} of model {self._model!r}: {error}"
            raise load_error(row.error_code, cause)
        if self._own_load:
            # Not a fault of the version, which must not be rejected for it.
            raise Contention(
                f"Replica {target} unloaded version {self._version} of model {self._model!r} during the wait for it.",
                "Somebody changed the config of this group; see `tfs-deploy history` and try again.",
            )

    def on_error(self, target: str, error: Transient) -> None:
        """Note that `target` did not answer; a later answer replaces this."""
        before = self._replicas[target]
        self._replicas[target] = replace(before, state=None, unreachable=error.cause, available_at=None)

    def is_done(self, *, at: float) -> bool:
        """Tell whether every replica is AVAILABLE; raise Unreachable or DeadlineExceeded when time is up."""
        waited = at - self._started
        for target in self.pending:
            replica = self._replicas[target]
            if replica.unreachable and waited >= self._limits.load:
                raise Unreachable(
                    f"Replica {target} does not answer after a wait of {waited:.0f} s: {replica.unreachable}",
                    "Start it, or take it out of the serving group.",
                )
            unlisted = at - (at if replica.unlisted_since is None else replica.unlisted_since)
            undiscovered = unlisted >= self._limits.discovery or waited >= self._limits.load
            if replica.state is None and not replica.unreachable and undiscovered:
                raise DeadlineExceeded(
                    f"Replica {target} did not see version {self._version} of model {self._model!r} "
                    f"within {unlisted:.0f} s.",
                    "Check that the model root of the group is the directory this server reads, and its poll period.",
                )
            if replica.state is not None and waited >= self._limits.load:
                raise DeadlineExceeded(
                    f"Replica {target} still shows version {self._version} of model {self._model!r} as "
                    f"{replica.state.value} after {waited:.0f} s.",
                    "Allow more time, or read the server's log.",
                )
        return not self.pending


def wait_until_available(
    clients: Mapping[str, ServingClient], model: str, version: int, *, limits: WaitLimits, clock: Clock
) -> dict[str, float]:
    """Block until `version` is AVAILABLE on every replica; return when, per target, in monotonic seconds of `clock`.

    Raises LoadFailed, Contention (somebody unloaded it), DeadlineExceeded or Unreachable. A busy replica is polled
    again until the deadline.
    """
    watch = GroupWatch(model, version, clients, limits=limits, started=clock.monotonic())

    def ask(target: str) -> tuple[tuple[VersionStatus, ...] | Transient, float]:
        return _ask(clients[target], model, version, limits.rpc), clock.monotonic()

    while True:
        for target, (answer, at) in call_each({target: clients[target] for target in watch.pending}, ask).items():
            watch.on_answer(target, answer, at=at)
        if watch.is_done(at=clock.monotonic()):
            return watch.available_at
        clock.sleep(watch.pause(at=clock.monotonic()))


def to_wall_clock(moments: Mapping[str, float], clock: Clock) -> dict[str, datetime]:
    """Return the same moments as times in UTC; `moments` are monotonic seconds of `clock`."""
    now, monotonic = clock.now(), clock.monotonic()
    return {target: now - timedelta(seconds=monotonic - at) for target, at in moments.items()}


def is_available(clients: Mapping[str, ServingClient], model: str, version: int, *, seconds: float) -> bool:
    """Ask every replica once whether `version` is AVAILABLE, within `seconds` each; raise LoadFailed.

    A single poll has no memory, so no END row counts as the trace of an earlier load of the number.
    """
    limits = WaitLimits(discovery=math.inf, load=math.inf, stale_end=0.0)
    watch = GroupWatch(model, version, clients, limits=limits, started=0.0, own_load=False)
    for target, client in clients.items():
        watch.on_answer(target, _ask(client, model, version, seconds), at=0.0)
    return watch.is_done(at=0.0)


def wait_until_gone(
    clients: Mapping[str, ServingClient], model: str, version: int, *, limits: WaitLimits, clock: Clock
) -> None:
    """Block until no replica holds `version` any more; raise DeadlineExceeded or Unreachable after `limits.load`.

    A version that was taken back before its load began stays START for ever (contract 4.3): that counts as gone when
    it has not moved for `limits.stale_end`.
    """
    started = changed = clock.monotonic()
    left = dict(clients)
    while True:
        waited = clock.monotonic() - started
        for target, answer in call_each(left, lambda target: _ask(clients[target], model, version, limits.rpc)).items():
            if isinstance(answer, Transient):
                if waited >= limits.load:
                    raise answer
                continue
            states = {row.state for row in answer if row.version == version}
            dropped = states == {VersionState.START} and waited >= limits.stale_end
            if states <= {VersionState.END} or dropped:
                del left[target]
                changed = clock.monotonic()
        if not left:
            return
        if waited >= limits.load:
            raise DeadlineExceeded(
                f"Replica {next(iter(left))} still holds version {version} of model {model!r} after {waited:.0f} s.",
                "Find requests that never end: a server drains them before it unloads.",
            )
        clock.sleep(pause_seconds(limits, unchanged=clock.monotonic() - changed, pending=len(left)))


def _ask(client: ServingClient, model: str, version: int, timeout: float) -> tuple[VersionStatus, ...] | Transient:
    try:
        return client.status(model, version, timeout=timeout, busy_timeout=0.0)
    except Transient as error:
        return error


async def wait_until_available_aio(
    clients: Mapping[str, AsyncServingClient],
    model: str,
    version: int,
    *,
    limits: WaitLimits,
    clock: Clock,
    own_load: bool = True,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> dict[str, float]:
    """Do what `wait_until_available` does without blocking the event loop; see `GroupWatch` for `own_load`."""

    async def ask(target: str) -> tuple[str, tuple[VersionStatus, ...] | Transient, float]:
        try:
            rows = await clients[target].status(model, version, timeout=limits.rpc, busy_timeout=0.0)
            return target, rows, clock.monotonic()
        except Transient as error:
            return target, error, clock.monotonic()

    watch = GroupWatch(model, version, clients, limits=limits, started=clock.monotonic(), own_load=own_load)
    while True:
        for target, answer, at in await asyncio.gather(*(ask(target) for target in watch.pending)):
            watch.on_answer(target, answer, at=at)
        if watch.is_done(at=clock.monotonic()):
            return watch.available_at
        await sleep(watch.pause(at=clock.monotonic()))
