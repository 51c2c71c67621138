"""A whole gateway: everything that its configuration names, started, and drained in the right order."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import BinaryIO

from tfs_deploy.gateway.capture.copying import Copier
from tfs_deploy.gateway.capture.writer import Capture
from tfs_deploy.gateway.config import GatewayConfig, ModelConfig
from tfs_deploy.gateway.fetching.fetch import Fetcher
from tfs_deploy.gateway.processors.model_processors import ModelProcessors, make_model_processors
from tfs_deploy.gateway.traffic import Traffic
from tfs_deploy.gateway.upstream.connections import Connections
from tfs_deploy.gateway.upstream.model import Upstream
from tfs_deploy.gateway.web import figures
from tfs_deploy.gateway.web.access_log import AccessLog
from tfs_deploy.gateway.web.app import Application
from tfs_deploy.gateway.web.auth import read_keys
from tfs_deploy.gateway.web.endpoint import Served
from tfs_deploy.gateway.web.metrics import Metrics
from tfs_deploy.gateway.web.server import Port

logger = logging.getLogger(__name__)

# After the first sign of the end, requests are answered as before until none came for so long: whoever balances the
# load asks /readyz first and sends others a moment later.
QUIET_SECONDS = 1.0
_LOOK_SECONDS = 0.05
_CLOSE_SECONDS = 5.0


class Gateway:
    """Made of a checked configuration; `start` and `stop` on one event loop.

    Making it raises InvalidInput (and MissingExtra) for what cannot work: a key, a certificate, a processor.
    """

    def __init__(self, config: GatewayConfig, *, log: BinaryIO | None = None, fetcher: Fetcher | None = None) -> None:
        self._config = config
        keys = read_keys(config.auth)
        self._processors, self._pool = make_model_processors(config.models, config.pool)
        self._fetcher = fetcher or Fetcher(config.fetch)
        self._metrics = Metrics()
        connections = Connections(config.replica_tls)
        self._served = [
            _served(name, model, config, connections, self._metrics, self._processors)
            for name, model in config.models.items()
        ]
        self._access_log = AccessLog(log or sys.stdout.buffer)
        self.app = Application(
            config,
            self._served,
            keys=keys,
            fetcher=self._fetcher,
            metrics=self._metrics,
            access_log=self._access_log,
        )
        self._port = Port(config.listen, self.app, connections=config.limits.connections)
        figures.tell(
            self._metrics, self._served, room=self.app.room, port=self._port, pool=self._pool, log=self._access_log
        )
        self._stopping = False

    @property
    def url(self) -> str:
        """Return where it listens."""
        return self._port.url

    async def start(self) -> None:
        """Start everything, the port last; raise InvalidInput, StoreError or Unreachable where that fails.

        Model servers that are away are no error: /readyz says so.
        """
        if self._pool is not None:
            await self._pool.start()
        for served in self._served:
            if served.capture is not None:
                served.capture.start()
        await asyncio.gather(*(served.upstream.start() for served in self._served))
        self._port.open()
        logger.info("Serving %s on %s", ", ".join(self._config.models), self.url)

    async def stop(self, *, quiet: float = QUIET_SECONDS) -> bool:
        """Fail /readyz, answer what comes until nothing does for `quiet` seconds, finish.

        Tells whether every request was answered. Takes `limits.drain_seconds` at most, and a moment.
        """
        until = time.monotonic() + self._config.limits.drain_seconds
        self.app.health.draining = True
        await self._until_quiet(quiet, until)
        self._port.stop()
        self.app.refuses = True
        answered = await self.app.finished(max(0.0, until - time.monotonic()))
        await self._port.close()
        for served in self._served:
            await served.traffic.stop()
        await asyncio.gather(*(served.upstream.stop(0.0) for served in self._served))
        if self._pool is not None:
            await self._pool.stop()
        self._fetcher.close()
        await asyncio.to_thread(self._close_files)
        return answered

    async def _until_quiet(self, quiet: float, until: float) -> None:
        # Half of the time is for the last requests.
        until -= self._config.limits.drain_seconds / 2
        begun, since = self.app.begun, time.monotonic()
        while (now := time.monotonic()) < until and now - since < quiet:
            await asyncio.sleep(_LOOK_SECONDS)
            if self.app.begun != begun:
                begun, since = self.app.begun, time.monotonic()

    def _close_files(self) -> None:
        for served in self._served:
            if served.capture is not None:
                served.capture.close(_CLOSE_SECONDS)
        self._access_log.close(_CLOSE_SECONDS)


def _served(
    name: str,
    model: ModelConfig,
    config: GatewayConfig,
    connections: Connections,
    metrics: Metrics,
    processors: dict[str, ModelProcessors],
) -> Served:
    meter = metrics.meter(name)
    upstream = Upstream(name, config, connections, meter=meter)
    seconds = model.timeout_seconds or config.limits.timeout_seconds
    traffic = Traffic(name, model, upstream, busy=upstream.admission, shadow_seconds=seconds, meter=meter)
    capture = None
    if model.capture is not None:
        capture = Capture(name, model.capture, copier=Copier.of(model.capture, name))
    return Served(name, model, upstream, traffic, processors[name], capture)
