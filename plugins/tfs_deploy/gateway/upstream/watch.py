"""The replicas of one model: looked up where they are names, and asked again and again what the labels mean."""

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
from tfs_deploy.serving.group import parse_targets
from tfs_deploy.serving.group_settings import TLSFiles


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
        """Give up one use of the connection to `target`."""
        client, users = self._open.pop(target)
        if users > 1:
            self._open[target] = (client, users - 1)
        else:
            await client.close()


logger = logging.getLogger(__name__)

# A model that nobody asked for during this time is watched less closely: its next request asks for itself.
_IDLE_AFTER_SECONDS = 10.0
_IDLE_INTERVAL_SECONDS = 5.0
# What a replica that left its name has for the requests that it was given; no request has longer.
_DRAIN_SECONDS = 3600.0

Resolve = Callable[[Sequence[str]], tuple[str, ...]]


class ReplicaWatch:
    """Keeps `replicas` as they are now; `start` and `stop` on one event loop."""

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
        self._asked_at = clock.monotonic()

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Return the replicas that there are now."""
        return tuple(self._replicas.values())

    def asked(self) -> None:
        """Note that somebody wants an answer from this model."""
        idle = self._idle()
        self._asked_at = self._clock.monotonic()
        if idle:
            for event in self._probe_now.values():
                event.set()

    async def start(self) -> None:
        """Look the replicas up, ask each once, and go on asking in the background."""
        await self._resolve_replicas()
        await asyncio.gather(*(self._probe(replica) for replica in self.replicas))
        if any(target.startswith("dns:") for target in self._targets):
            self._resolve_task = asyncio.create_task(self._resolve_repeatedly())

    async def stop(self) -> None:
        """Ask no more, and let the connections go."""
        tasks = [*self._watchers.values(), *([self._resolve_task] if self._resolve_task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for target in tuple(self._replicas):
            self._drop(target)
        for replica in self._draining.values():
            replica.cancel_attempts()
        await asyncio.gather(*self._draining)

    # --- who there is -----------------------------------------------------------------------------------------------

    async def _resolve_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(self._health.resolve_seconds)
            try:
                await self._resolve_replicas()
            except Exception:  # of any kind: whoever is not looked up any more loses its replicas one by one
                logger.exception("The replicas of %s cannot be looked up", self._model)

    async def _resolve_replicas(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(None, self._resolve, self._targets)
        except TFSDeployError as error:
            # Whoever was there before is still asked: a name service that fails for a while changes nothing.
            logger.warning("The replicas of %s cannot be looked up: %s", self._model, error)
            return
        for target in found:
            if target not in self._replicas:
                self._add(target)
        for target in self._replicas.keys() - set(found):
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
        """Close the connection after what is under way there."""
        await replica.finished(_DRAIN_SECONDS)
        await self._connections.release(replica.target)

    # --- what they say ----------------------------------------------------------------------------------------------

    async def _watch(self, replica: Replica) -> None:
        probe_now = self._probe_now[replica.target]
        while True:
            started = self._clock.monotonic()
            probe_now.clear()
            await self._probe(replica)
            interval = _IDLE_INTERVAL_SECONDS if self._idle() else self._health.interval_seconds
            # From start to start, so that a slow answer does not make the next one late too.
            pause = started + max(interval, self._health.interval_seconds) - self._clock.monotonic()
            await _wait_for_event(probe_now, max(0.0, pause))

    async def _probe(self, replica: Replica) -> None:
        try:
            await asyncio.gather(*(replica.probe(label) for label in self._labels))
        except Exception:  # of any kind: whoever is not watched any more gets no requests
            logger.exception("Asking %s about %s failed", replica.target, self._model)

    def _idle(self) -> bool:
        return self._clock.monotonic() - self._asked_at > _IDLE_AFTER_SECONDS

    def _changed(self, replica: Replica) -> None:
        """Act on a replica that was ejected or came back."""
        self._meter.count("ejected" if replica.ejected else "readmitted", replica=replica.target)
        if not replica.ejected:
            return
        if replica.unresponsive and any(not other.ejected for other in self.replicas):
            replica.cancel_attempts()
        probe_now = self._probe_now.get(replica.target)
        if probe_now is not None and not replica.unresponsive:
            probe_now.set()  # it may be back already, or never have been away


async def _wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Wait until `event` is set, at most `seconds`."""
    # Not wait_for(): before Python 3.12 it loses a cancelling that comes as the event is set, and whoever cancelled
    # waits for this task for ever.
    waiter = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiter}, timeout=seconds)
    finally:
        waiter.cancel()
