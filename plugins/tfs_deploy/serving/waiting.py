"""When a version counts as loaded on a whole group: one decision for both waits and for a single poll."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tfs_deploy.clock import Clock
from tfs_deploy.errors import Contention, DeadlineExceeded, LoadFailed, Transient, Unreachable
from tfs_deploy.serving.base_client import AsyncServingClient, ServingClient
from tfs_deploy.serving.concurrent_calls import call_each
from tfs_deploy.serving.replies import VersionState, VersionStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WaitLimits:
    """How long each phase may take, in seconds.

    `discovery`: until the server lists the version (one poll of the file system, a listing, a sync agent's lag);
    `load`: until every replica is AVAILABLE, all in all; `stale_end`: for how long an END row that was there from the
    start may be the trace of an earlier load of the number (contract 6: 2 x poll + 2 s); `interval`: between two
    polls; `rpc`: for one GetModelStatus.
    """

    discovery: float = 60.0
    load: float = 300.0
    stale_end: float = 4.0
    interval: float = 0.2
    rpc: float = 5.0


@dataclass(frozen=True, slots=True)
class _ReplicaState:
    state: VersionState | None = None
    error: str = ""
    ever_alive: bool = False
    unreachable: str = ""


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
        self._replicas = {target: _ReplicaState() for target in targets}

    @property
    def pending(self) -> tuple[str, ...]:
        """The replicas that are not yet AVAILABLE."""
        return tuple(
            target for target, replica in self._replicas.items() if replica.state is not VersionState.AVAILABLE
        )

    def on_answer(self, target: str, answer: tuple[VersionStatus, ...] | Transient, *, at: float) -> None:
        """Pass on the answer of one GetModelStatus."""
        if isinstance(answer, Transient):
            self.on_error(target, answer)
        else:
            self.on_status(target, answer, at=at)

    def on_status(self, target: str, rows: tuple[VersionStatus, ...], *, at: float) -> None:
        """Note the rows that `target` answered with; raise LoadFailed when it cannot load the version.

        Raises Contention when it unloaded the version without an error: somebody changed its config.
        """
        row = next((row for row in rows if row.version == self._version), None)
        before = self._replicas[target]
        state = row.state if row else None
        alive = before.ever_alive or state in (VersionState.START, VersionState.LOADING, VersionState.AVAILABLE)
        error = f"{row.error_code}: {row.error_message}" if row and row.error_code != "OK" else ""
        if state is not before.state:
            logger.info("Version %s of %s on %s: %s", self._version, self._model, target, state.value if state else "-")
        self._replicas[target] = _ReplicaState(state, error, alive)
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
        if self._own_load:
            # Not a fault of the version, which must not be rejected for it.
            raise Contention(
                f"Replica {target} unloaded version {self._version} of model {self._model!r} during the wait for it.",
                "Somebody changed the config of this group; see `tfs-deploy history` and try again.",
            )

    def on_error(self, target: str, error: Transient) -> None:
        """Note that `target` did not answer; a later answer replaces this."""
        before = self._replicas[target]
        self._replicas[target] = _ReplicaState(None, before.error, before.ever_alive, unreachable=error.cause)

    def is_done(self, *, at: float) -> bool:
        """Tell whether every replica is AVAILABLE; raise Unreachable or DeadlineExceeded when time is up."""
        waited = at - self._started
        for target in self.pending:
            replica = self._replicas[target]
            if replica.unreachable and waited >= self._limits.load:
                raise Unreachable(
                    f"Replica {target} did not answer for {waited:.0f} s: {replica.unreachable}",
                    "Start it, or take it out of the serving group.",
                )
            if replica.state is None and not replica.unreachable and waited >= self._limits.discovery:
                raise DeadlineExceeded(
                    f"Replica {target} did not see version {self._version} of model {self._model!r} "
                    f"within {waited:.0f} s.",
                    "Check that the model root of the group is the directory this server reads, and its poll period.",
                )
            if waited >= self._limits.load:
                state = replica.state.value if replica.state else "unknown"
                raise DeadlineExceeded(
                    f"Replica {target} still shows version {self._version} of model {self._model!r} as {state} "
                    f"after {waited:.0f} s.",
                    "Allow more time, or read the server's log.",
                )
        return not self.pending


def wait_until_available(
    clients: Mapping[str, ServingClient], model: str, version: int, *, limits: WaitLimits, clock: Clock
) -> None:
    """Block until `version` is AVAILABLE on every replica.

    Raises LoadFailed, Contention (somebody unloaded it), DeadlineExceeded or Unreachable.
    """
    watch = GroupWatch(model, version, clients, limits=limits, started=clock.monotonic())
    while True:
        pending = {target: clients[target] for target in watch.pending}
        answers = call_each(pending, lambda target: _ask(clients[target], model, version, limits.rpc))
        for target, answer in answers.items():
            watch.on_answer(target, answer, at=clock.monotonic())
        if watch.is_done(at=clock.monotonic()):
            return
        clock.sleep(limits.interval)


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
    started = clock.monotonic()
    left = dict(clients)
    while True:
        waited = clock.monotonic() - started
        for target, client in list(left.items()):
            answer = _ask(client, model, version, limits.rpc)
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
                "Find requests that never end: a server drains them before it unloads.",
            )
        clock.sleep(limits.interval)


def _ask(client: ServingClient, model: str, version: int, timeout: float) -> tuple[VersionStatus, ...] | Transient:
    try:
        return client.status(model, version, timeout=timeout)
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
) -> None:
    """Do what `wait_until_available` does without blocking the event loop; see `GroupWatch` for `own_load`."""

    async def ask(target: str) -> tuple[str, tuple[VersionStatus, ...] | Transient]:
        try:
            return target, await clients[target].status(model, version, timeout=limits.rpc)
        except Transient as error:
            return target, error

    watch = GroupWatch(model, version, clients, limits=limits, started=clock.monotonic(), own_load=own_load)
    while True:
        for target, answer in await asyncio.gather(*(ask(target) for target in watch.pending)):
            watch.on_answer(target, answer, at=clock.monotonic())
        if watch.is_done(at=clock.monotonic()):
            return
        await asyncio.sleep(limits.interval)
