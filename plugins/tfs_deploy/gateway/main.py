"""Start and end of the gateway's process."""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import signal
import sys
import time
from collections.abc import Sequence

from tfs_deploy.errors import TFSDeployError
from tfs_deploy.gateway.config import GatewayConfig
from tfs_deploy.gateway.config_file import read_config
from tfs_deploy.gateway.gateway import Gateway

logger = logging.getLogger(__name__)

_PROGRAM = "tfs-deploy gateway"
_CUT_OFF = 1
# Connections to model servers and URLs, pipes, logs.
_OTHER_FILES = 512


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; return 0, 1 if the end was cut short, or an error's own exit code."""
    parser = argparse.ArgumentParser(prog=_PROGRAM, description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="the gateway's YAML file")
    parser.add_argument("--check", action="store_true", help="read and check the file, make the processors, and end")
    parser.add_argument("--debug", action="store_true", help="log every step")
    chosen = parser.parse_args(arguments)
    _configure_logging(debug=chosen.debug)
    try:
        config = read_config(chosen.config)
        return asyncio.run(_check(config) if chosen.check else _serve(config))
    except TFSDeployError as error:
        told = " ".join(str(error).split())
        print(f"{_PROGRAM}: {told}", file=sys.stderr, flush=True)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:  # a second signal: whoever was still served is cut off
        return _CUT_OFF


async def _check(config: GatewayConfig) -> int:
    Gateway(config)
    logger.info("The configuration can be served")
    return 0


async def _serve(config: GatewayConfig) -> int:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, ended)
    _allow_open_files(config.limits.connections)
    gateway = Gateway(config)
    await gateway.start()
    await ended.wait()
    logger.info("Draining")
    if await gateway.stop():
        logger.info("Stopped; every request was answered")
        return 0
    logger.warning("Stopped; requests were cut off after %g s", config.limits.drain_seconds)
    return _CUT_OFF


def _allow_open_files(connections: int) -> None:
    """Let the process have as many open files as it may take connections, if the system does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < connections + _OTHER_FILES:
        logger.warning("The system allows %d open files, fewer than `limits.connections` needs", wanted)


def _on_signal(ended: asyncio.Event) -> None:
    if ended.is_set():  # the second time: whoever sends it wants an end, not a drain
        raise KeyboardInterrupt
    ended.set()


def _configure_logging(*, debug: bool) -> None:
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s.%(msecs)03dZ %(levelname).1s %(name)s] %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )  # fmt: skip
    logging.getLogger("tfs_deploy").setLevel(logging.DEBUG if debug else logging.INFO)
    # What a stranger sends is no news: Tornado tells of every malformed message.
    logging.getLogger("tornado.general").setLevel(logging.WARNING)
