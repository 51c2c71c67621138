"""Opens the REST port that the flags ask for; Tornado is imported only then."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

from tfs_deploy.errors import MissingExtra
from tfs_deploy.modelserver import monitoring_config
from tfs_deploy.modelserver.flags import Flags
from tfs_deploy.modelserver.inference.predict import PredictOptions
from tfs_deploy.modelserver.lifecycle.core import ServerCore
from tfs_deploy.modelserver.status import failed_precondition

logger = logging.getLogger(__name__)


class RestPort(Protocol):
    """An open port."""

    def stop(self, grace: float) -> None:
        """Close it, after calls that run had `grace` seconds."""


def check(flags: Flags) -> None:
    """Refuse a REST port where Tornado is missing, before anything is loaded.

    Imports the HTTP server already, which takes a tenth of a second: the REST port is to open right after gRPC's.
    """
    if not flags.number("rest_api_port"):
        return
    if find_spec("tornado") is None:
        raise failed_precondition(f"--rest_api_port: {MissingExtra('tornado', 'gateway')}")
    import_module("tfs_deploy.modelserver.rest.server")


def open_port(core: ServerCore, flags: Flags, options: PredictOptions) -> RestPort | None:
    """Return the port, or None where there is none; like TF Serving, go on without it when it cannot be taken."""
    port = flags.number("rest_api_port")
    if not port:
        return None
    if port == flags.number("port"):
        logger.error(
            "server_options.http_port cannot be same as grpc_port. Please use a different port for HTTP/REST API. "
            "Skipped exporting HTTP/REST API."
        )
        return None
    metrics_path = monitoring_config.read_path(flags.text("monitoring_config_file"))
    from tfs_deploy.modelserver.rest.api import RestApi, RestOptions
    from tfs_deploy.modelserver.rest.server import RestServer

    timeout = flags.number("rest_api_timeout_in_ms")
    api = RestApi(
        core,
        RestOptions(
            predict=options,
            timeout_ms=timeout if timeout > 0 else None,
            cors=flags.switch("rest_api_enable_cors_support"),
            metrics_path=metrics_path,
        ),
    )
    try:
        server = RestServer(api, port, flags.number("rest_api_num_threads"))
    except (OSError, OverflowError) as error:
        logger.error("Failed to start HTTP Server at localhost:%s: %s", port, error)
        return None
    server.start()
    logger.info("Exporting HTTP/REST API at:localhost:%s ...", port)
    return server
