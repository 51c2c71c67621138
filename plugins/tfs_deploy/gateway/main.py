"""The gateway and its process: start of all parts, and an orderly shutdown."""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import signal
import sys
import time
from collections.abc import Sequence
from typing import BinaryIO

from tfs_deploy.errors import TFSDeployError
from tfs_deploy.gateway.capture.writer import Capture, CaptureUploader
from tfs_deploy.gateway.config import GatewayConfig, ModelConfig
from tfs_deploy.gateway.config_file import read_config
from tfs_deploy.gateway.fetching.fetch import Fetcher
from tfs_deploy.gateway.processors.model_processors import ModelProcessors, make_model_processors
from tfs_deploy.gateway.upstream.model import Traffic, Upstream
from tfs_deploy.gateway.upstream.watch import Connections
from tfs_deploy.gateway.web.app import Application
from tfs_deploy.gateway.web.auth import read_keys
from tfs_deploy.gateway.web.endpoint import Endpoint
from tfs_deploy.gateway.web.metrics import AccessLog, Metrics, register_gauges
from tfs_deploy.gateway.web.server import Listener

logger = logging.getLogger(__name__)

# After the stop signal, requests are answered until none came for this time: a load balancer notices the failing
# /readyz only after its own interval.
QUIET_SECONDS = 1.0
_POLL_SECONDS = 0.05
_CLOSE_SECONDS = 5.0
_PROGRAM = "tfs-deploy gateway"
_INTERRUPTED = 1
# Connections to model servers and URLs, pipes, logs.
_OTHER_FILES = 512


class Gateway:
    """A gateway for a checked configuration; `start` and `stop` on one event loop.

    The constructor raises InvalidInput or MissingExtra for keys, certificates and processors that cannot be used.
    """

    def __init__(self, config: GatewayConfig, *, log: BinaryIO | None = None, fetcher: Fetcher | None = None) -> None:
        self._config = config
        keys = read_keys(config.auth)
        self._processors, self._pool = make_model_processors(config.models, config.pool)
        self._fetcher = fetcher or Fetcher(config.fetch)
        self._metrics = Metrics()
        connections = Connections(config.replica_tls)
        self._endpoints = [
            _make_endpoint(name, model, config, connections, self._metrics, self._processors)
            for name, model in config.models.items()
        ]
        self._access_log = AccessLog(log or sys.stdout.buffer)
        self.app = Application(
            config,
            self._endpoints,
            keys=keys,
            fetcher=self._fetcher,
            metrics=self._metrics,
            access_log=self._access_log,
        )
        self._listener = Listener(config.listen, self.app, connections=config.limits.connections)
        register_gauges(
            self._metrics,
            self._endpoints,
            budget=self.app.budget,
            connections=lambda: self._listener.connections,
            pool=self._pool,
            log=self._access_log,
        )
        self._stopping = False

    @property
    def url(self) -> str:
        """Return the URL of the listener."""
        return self._listener.url

    async def start(self) -> None:
        """Start all parts, the listener last; raise InvalidInput, StoreError or Unreachable.

        Unavailable model servers are no error; /readyz reports them.
        """
        if self._pool is not None:
            await self._pool.start()
        for endpoint in self._endpoints:
            if endpoint.capture is not None:
                endpoint.capture.start()
        await asyncio.gather(*(endpoint.upstream.start() for endpoint in self._endpoints))
        self._listener.open()
        logger.info("Serving %s on %s", ", ".join(self._config.models), self.url)

    async def stop(self, *, quiet: float = QUIET_SECONDS) -> bool:
        """Fail /readyz, answer requests until none came for `quiet` seconds, close; return whether all were answered.

        This takes little more than `limits.drain_seconds` at most.
        """
        until = time.monotonic() + self._config.limits.drain_seconds
        self.app.health.draining = True
        await self._until_quiet(quiet, until)
        self._listener.stop()
        self.app.refusing = True
        answered = await self.app.wait_until_idle(max(0.0, until - time.monotonic()))
        await self._listener.close()
        for endpoint in self._endpoints:
            await endpoint.traffic.stop()
        await asyncio.gather(*(endpoint.upstream.stop(0.0) for endpoint in self._endpoints))
        if self._pool is not None:
            await self._pool.stop()
        self._fetcher.close()
        await asyncio.to_thread(self._close_files)
        return answered

    async def _until_quiet(self, quiet: float, until: float) -> None:
        # The other half of the time is for the last requests.
        until -= self._config.limits.drain_seconds / 2
        model_requests, since = self.app.model_requests, time.monotonic()
        while (now := time.monotonic()) < until and now - since < quiet:
            await asyncio.sleep(_POLL_SECONDS)
            if self.app.model_requests != model_requests:
                model_requests, since = self.app.model_requests, time.monotonic()

    def _close_files(self) -> None:
        for endpoint in self._endpoints:
            if endpoint.capture is not None:
                endpoint.capture.close(_CLOSE_SECONDS)
        self._access_log.close(_CLOSE_SECONDS)


def _make_endpoint(
    name: str,
    model: ModelConfig,
    config: GatewayConfig,
    connections: Connections,
    metrics: Metrics,
    processors: dict[str, ModelProcessors],
) -> Endpoint:
    meter = metrics.meter(name)
    upstream = Upstream(name, config, connections, meter=meter)
    seconds = model.timeout_seconds or config.limits.timeout_seconds
    traffic = Traffic(name, model, upstream, capacity=upstream.admission, shadow_seconds=seconds, meter=meter)
    capture = None
    if model.capture is not None:
        capture = Capture(name, model.capture, uploader=CaptureUploader.from_config(model.capture, name))
    return Endpoint(name, model, upstream, traffic, processors[name], capture)


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; return 0, 1 where requests were interrupted, or the exit code of an error."""
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Serve models over HTTP.")
    parser.add_argument("--config", required=True, metavar="FILE", help="the gateway's YAML file")
    parser.add_argument("--check", action="store_true", help="check the file and its processors, and exit")
    parser.add_argument("--debug", action="store_true", help="log every step")
    chosen = parser.parse_args(arguments)
    _configure_logging(debug=chosen.debug)
    try:
        config = read_config(chosen.config)
        return asyncio.run(_check(config) if chosen.check else _serve(config))
    except TFSDeployError as error:
        message = " ".join(str(error).split())
        print(f"{_PROGRAM}: {message}", file=sys.stderr, flush=True)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:  # a second signal ends requests in flight
        return _INTERRUPTED


async def _check(config: GatewayConfig) -> int:
    Gateway(config)
    logger.info("The configuration is valid")
    return 0


async def _serve(config: GatewayConfig) -> int:
    stop_requested = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, stop_requested)
    _allow_open_files(config.limits.connections)
    gateway = Gateway(config)
    await gateway.start()
    await stop_requested.wait()
    logger.info("Draining")
    if await gateway.stop():
        logger.info("Stopped; every request was answered")
        return 0
    logger.warning("Stopped; requests were interrupted after %g s", config.limits.drain_seconds)
    return _INTERRUPTED


def _allow_open_files(connections: int) -> None:
    """Raise the limit of open files to the number of connections, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sampled = connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        sampled = min(sampled, hard)
    if sampled > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (sampled, hard))
    if sampled < connections + _OTHER_FILES:
        logger.warning(
            "The system allows %d open files, too few for `limits.connections`; raise its hard limit", sampled
        )


def _on_signal(stop_requested: asyncio.Event) -> None:
    if stop_requested.is_set():  # the second signal asks for an immediate end
        raise KeyboardInterrupt
    stop_requested.set()


def _configure_logging(*, debug: bool) -> None:
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s.%(msecs)03dZ %(levelname).1s %(name)s] %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )  # fmt: skip
    logging.getLogger("tfs_deploy").setLevel(logging.DEBUG if debug else logging.INFO)
    # Tornado logs every malformed message of a client.
    logging.getLogger("tornado.general").setLevel(logging.WARNING)
