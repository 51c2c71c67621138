"""The replicas of one model: connections, resolution of ``dns:`` names, and periodic queries of their labels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from tfs_deploy.clock import Clock
from tfs_deploy.errors import TFSDeployError
from tfs_deploy.gateway.config import Health
from tfs_deploy.gateway.config_file import REPLICA_SOURCE
from tfs_deploy.gateway.upstream.answer import Meter
from tfs_deploy.gateway.upstream.replica import Replica
from tfs_deploy.serving.client import AsyncModelServerClient, connect_aio
from tfs_deploy.serving.group import TLSFiles, parse_targets

logger = logging.getLogger(__name__)

# A model without requests for this time is queried less often; its next request queries at once.
_IDLE_AFTER_SECONDS = 10.0
_IDLE_INTERVAL_SECONDS = 5.0
# The time for requests in flight at a replica that was removed; no request has a longer timeout.
_DRAIN_SECONDS = 3600.0
Resolve = Callable[[Sequence[str]], tuple[str, ...]]


class Connections:
    """Clients by address; each `acquire` is paired with a `release`, the last one closes the connection."""

    def __init__(
        self,
        tls: TLSFiles | None = None,
        *,
        connect: Callable[..., AsyncModelServerClient] = connect_aio,
    ) -> None:
        self._tls = tls and tls.read(REPLICA_SOURCE)
        self._connect = connect
        self._open: dict[str, tuple[AsyncModelServerClient, int]] = {}

    def acquire(self, target: str) -> AsyncModelServerClient:
        """Return the client for ``host:port``; nothing is sent before its first call."""
        client, users = self._open.get(target) or (self._connect(target, tls=self._tls), 0)
        self._open[target] = (client, users + 1)
        return client

    async def release(self, target: str) -> None:
        """Release one use of the connection to `target`."""
        client, users = self._open.pop(target)
        if users > 1:
            self._open[target] = (client, users - 1)
        else:
            await client.close()


class ReplicaWatch:
    """Keeps `replicas` current; `start` and `stop` on one event loop."""

    def __init__(
        self,
        model: str,
        targets: Sequence[str],
        labels: Sequence[str],
        *,
        health: Health,
        connections: Connections,
        clock: Clock,
        meter: Meter,
        resolve: Resolve = parse_targets,
    ) -> None:
        self._model = model
        self._targets = tuple(targets)
        self._labels = tuple(dict.fromkeys(labels))
        self._health = health
        self._connections = connections
        self._clock = clock
        self._meter = meter
        self._resolve = resolve
        self._replicas: dict[str, Replica] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._draining: dict[asyncio.Task[None], Replica] = {}
        self._resolve_task: asyncio.Task[None] | None = None
        self._probe_now: dict[str, asyncio.Event] = {}
        self._last_request_at = clock.monotonic()

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Return the current replicas."""
        return tuple(self._replicas.values())

    def record_request(self) -> None:
        """Record a request for this model; query the labels at once after an idle time."""
        idle = self._idle()
        self._last_request_at = self._clock.monotonic()
        if idle:
            for event in self._probe_now.values():
                event.set()

    async def start(self) -> None:
        """Resolve the replicas, query each once, and go on in the background."""
        await self._resolve_replicas()
        await asyncio.gather(*(self._probe(replica) for replica in self.replicas))
        if any(target.startswith("dns:") for target in self._targets):
            self._resolve_task = asyncio.create_task(self._resolve_repeatedly())

    async def stop(self) -> None:
        """Stop the queries, cancel what is in flight, and release the connections."""
        tasks = [*self._watchers.values(), *([self._resolve_task] if self._resolve_task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for target in tuple(self._replicas):
            self._drop(target)
        for replica in self._draining.values():
            replica.cancel_attempts()
        await asyncio.gather(*self._draining)

    # --- resolution -----------------------------------------------------------------------------------------------

    async def _resolve_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(self._health.resolve_seconds)
            try:
                await self._resolve_replicas()
            except Exception:  # of any kind, because without this task the replicas would never change again
                logger.exception("The replicas of %s cannot be resolved", self._model)

    async def _resolve_replicas(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            targets = await loop.run_in_executor(None, self._resolve, self._targets)
        except TFSDeployError as error:
            # The known replicas stay in use while the name service fails.
            logger.warning("The replicas of %s cannot be resolved: %s", self._model, error)
            return
        for target in targets:
            if target not in self._replicas:
                self._add(target)
        for target in self._replicas.keys() - set(targets):
            logger.info("%s is no longer a replica of %s", target, self._model)
            self._drop(target)

    def _add(self, target: str) -> None:
        client = self._connections.acquire(target)
        replica = Replica(self._model, target, client, self._health, self._clock, self._changed)
        self._replicas[target] = replica
        self._probe_now[target] = asyncio.Event()
        self._watchers[target] = asyncio.get_running_loop().create_task(self._watch(replica))

    def _drop(self, target: str) -> None:
        replica = self._replicas.pop(target)
        self._probe_now.pop(target)
        self._watchers.pop(target).cancel()
        replica.close()
        draining = asyncio.get_running_loop().create_task(self._close_when_idle(replica))
        self._draining[draining] = replica
        draining.add_done_callback(self._draining.pop)

    async def _close_when_idle(self, replica: Replica) -> None:
        """Release the connection when no request is in flight there."""
        await replica.wait_until_idle(_DRAIN_SECONDS)
        await self._connections.release(replica.target)

    # --- queries --------------------------------------------------------------------------------------------------

    async def _watch(self, replica: Replica) -> None:
        probe_now = self._probe_now[replica.target]
        while True:
            started = self._clock.monotonic()
            probe_now.clear()
            await self._probe(replica)
            interval = _IDLE_INTERVAL_SECONDS if self._idle() else self._health.interval_seconds
            # Counted from start to start, so that a slow answer does not delay the next query.
            pause = started + max(interval, self._health.interval_seconds) - self._clock.monotonic()
            await _wait_for_event(probe_now, max(0.0, pause))

    async def _probe(self, replica: Replica) -> None:
        try:
            await asyncio.gather(*(replica.probe(label) for label in self._labels))
        except Exception:  # of any kind, because a replica without queries gets no requests
            logger.exception("Querying %s about %s failed", replica.target, self._model)

    def _idle(self) -> bool:
        return self._clock.monotonic() - self._last_request_at > _IDLE_AFTER_SECONDS

    def _changed(self, replica: Replica) -> None:
        """Act on a replica that was ejected or readmitted."""
        self._meter.count("ejected" if replica.ejected else "readmitted", replica=replica.target)
        if not replica.ejected:
            return
        if replica.unresponsive and any(not other.ejected for other in self.replicas):
            replica.cancel_attempts()
        probe_now = self._probe_now.get(replica.target)
        if probe_now is not None and not replica.unresponsive:
            probe_now.set()  # it may be available already


async def _wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Wait until `event` is set, at most `seconds`."""
    # Not wait_for(): before Python 3.12 it loses a cancellation that comes as the event is set, and the caller that
    # cancelled would wait for ever.
    waiter = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiter}, timeout=seconds)
    finally:
        waiter.cancel()
