"""The whole server, made from the flags: core, gRPC and REST ports, polling of the config file."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import grpc

from tfs_deploy.clock import Clock
from tfs_deploy.errors import MissingExtra
from tfs_deploy.modelserver import health, metrics, runtime, text_config
from tfs_deploy.modelserver.batching.session import session_wrapper
from tfs_deploy.modelserver.flags import Flags
from tfs_deploy.modelserver.graph.session import check_session_flags, session_config
from tfs_deploy.modelserver.inference.predict import PredictOptions
from tfs_deploy.modelserver.lifecycle import model_config
from tfs_deploy.modelserver.lifecycle.core import CoreOptions, ServerCore
from tfs_deploy.modelserver.lifecycle.manager import RetryOptions
from tfs_deploy.modelserver.lifecycle.monitor import ServableId
from tfs_deploy.modelserver.lifecycle.source import Periodic
from tfs_deploy.modelserver.loading.load_probe import LoadProbe, try_load
from tfs_deploy.modelserver.loading.loader import LoadOptions, SavedModelLoader
from tfs_deploy.modelserver.service import REFUSING_THREADS, handlers
from tfs_deploy.modelserver.status import Code, StatusError, failed_precondition, invalid_argument, of_exception

if TYPE_CHECKING:
    from tfs_deploy.modelserver.rest.server import RestServer

logger = logging.getLogger(__name__)

_MICROSECONDS = 1_000_000


class Server:
    """The embedded model server."""

    def __init__(self, flags: Flags, clock: Clock) -> None:
        self._flags = flags
        self._clock = clock
        self._config_poll: Periodic | None = None
        self._grpc: grpc.Server | None = None
        self._rest: RestServer | None = None
        if flags.text("monitoring_config_file"):
            metrics.turn_on()
        self._credentials: grpc.ServerCredentials | None = None
        load = LoadOptions(
            tags=tuple(tag for tag in flags.text("saved_model_tags").split(",") if tag),
            enable_warmup=flags.switch("enable_model_warmup"),
            warmup_iterations=flags.number("num_request_iterations_for_warmup"),
            check_method_name=flags.switch("enable_signature_method_name_check"),
            session_config=partial(session_config, flags),
            wrap_session=session_wrapper(flags, clock),
        )
        if not any(flags.switch(f"xla_{kind}_compilation_enabled") for kind in ("cpu", "gpu")):
            runtime.when_imported(runtime.disable_xla)
        probe = LoadProbe(partial(try_load, load))
        runtime.when_imported(probe.start)
        loader_of = partial(_loader_of, replace(load, probe=probe.check))
        self.core = ServerCore(_core_options(flags), loader_of, clock)

    def start(self) -> None:
        """Load the first models, then open the ports; raise StatusError where TF Serving exits with 255.

        Waits forever while a configured model has no version (contract 20.8).
        """
        _check_flags(self._flags)
        if self._flags.text("ssl_config_file"):
            self._credentials = text_config.ssl_credentials(self._flags.text("ssl_config_file"))
        path = self._flags.text("model_config_file")
        if path:
            config = model_config.read_file(path)
        else:
            config = model_config.single_model(self._flags.text("model_name"), self._flags.text("model_base_path"))
        self.core.start()
        self.core.reload(config)
        period = self._flags.number("model_config_file_poll_wait_seconds")
        if path and period > 0:
            poll = _ConfigFilePoll(self.core, path)
            self._config_poll = Periodic(poll, period, self._clock, name="config-poll")
            self._config_poll.start()
        self._open_ports()

    def stop(self, grace: float) -> None:
        """Refuse new calls, wait up to `grace` seconds for running ones, and stop."""
        if self._config_poll is not None:
            self._config_poll.stop()
        stopped = None if self._grpc is None else self._grpc.stop(grace)
        if self._rest is not None:
            self._rest.stop(grace)
        if stopped is not None:
            stopped.wait(grace + 1)
        self.core.stop()

    def _open_ports(self) -> None:
        flags = self._flags
        max_threads = max(flags.number("grpc_max_threads"), 1)
        pool = ThreadPoolExecutor(max_threads + REFUSING_THREADS, thread_name_prefix="grpc")
        server = grpc.server(pool, options=_channel_options(flags))
        options = PredictOptions(
            as_content=flags.switch("enable_serialization_as_tensor_content"),
            check_method_name=flags.switch("enable_signature_method_name_check"),
        )
        if flags.switch("enable_grpc_healthcheck_service"):
            server.add_generic_rpc_handlers((health.handler(),))
        server.add_generic_rpc_handlers(handlers(self.core, options, max_threads=max_threads))
        addresses = []
        if flags.number("port"):
            addresses.append(f"0.0.0.0:{flags.number('port')}")
        if flags.text("grpc_socket_path"):
            addresses.append(f"unix:{flags.text('grpc_socket_path')}")
        for address in addresses:
            _bind(server, address, self._credentials)
        server.start()
        self._grpc = server
        logger.info("Running gRPC ModelServer at %s ...", " and ".join(addresses))
        self._rest = open_rest_port(self.core, flags, options)


class _ConfigFilePoll:
    """Applies the config file at every call, also unchanged, so that it overrides reloads (contract 5.5)."""

    def __init__(self, core: ServerCore, path: str) -> None:
        self._core = core
        self._path = path
        self._last_error = ""

    def __call__(self) -> None:
        try:
            self._core.reload(model_config.read_file(self._path))
        except Exception as error:  # with any error the old config stays in force
            failure = str(of_exception(error))
            if failure != self._last_error:
                logger.error("PollFilesystemAndReloadConfig failed to ReloadConfig from %s: %s", self._path, failure)
            self._last_error = failure
        else:
            self._last_error = ""


def _check_flags(flags: Flags) -> None:
    """Raise the errors that TF Serving raises before any load."""
    if not flags.number("port") and not flags.text("grpc_socket_path"):
        raise invalid_argument(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
        )
    if not flags.text("model_base_path") and not flags.text("model_config_file"):
        raise invalid_argument("Both server_options.model_base_path and server_options.model_config_file are empty!")
    if flags.text("batching_parameters_file") and not flags.switch("enable_batching"):
        raise invalid_argument(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    if flags.switch("use_alts_credentials"):
        # A port without ALTS would expose what the flag is meant to protect.
        raise StatusError(Code.UNIMPLEMENTED, "ALTS is for Google's own network; use --ssl_config_file instead.")
    check_session_flags(flags)
    check_rest_port(flags)


def _core_options(flags: Flags) -> CoreOptions:
    return CoreOptions(
        file_system_poll_wait_seconds=flags.number("file_system_poll_wait_seconds"),
        num_load_threads=flags.number("num_load_threads"),
        num_unload_threads=flags.number("num_unload_threads"),
        retry=RetryOptions(
            max_retries=flags.number("max_num_load_retries"),
            interval_seconds=flags.number("load_retry_interval_micros") / _MICROSECONDS,
        ),
        allow_labels_for_unavailable=flags.switch("allow_version_labels_for_unavailable_models"),
    )


def _loader_of(options: LoadOptions, id_: ServableId, path: str) -> SavedModelLoader:
    return SavedModelLoader(id_, path, options)


def _channel_options(flags: Flags) -> list[tuple[str, Any]]:
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.so_reuseport", 0),  # a port in use must be an error instead of sharing its requests
    ]
    for item in filter(None, flags.text("grpc_channel_arguments").split(",")):
        name, _, value = item.partition("=")
        options.append((name, int(value) if value.lstrip("-").isdecimal() else value))
    return options


def _bind(server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None) -> None:
    try:
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise _not_bound(address) from error
    if not bound:
        raise _not_bound(address)


def _not_bound(address: str) -> StatusError:
    return invalid_argument(f"Failed to BuildAndStart gRPC server: cannot listen on {address}; is the port taken?")


def check_rest_port(flags: Flags) -> None:
    """Refuse a REST port where Tornado is missing, before anything is loaded.

    Imports the HTTP server, which takes 0.1 s, so that the REST port opens directly after gRPC's.
    """
    if not flags.number("rest_api_port"):
        return
    if find_spec("tornado") is None:
        raise failed_precondition(f"--rest_api_port: {MissingExtra('tornado', 'gateway')}")
    import_module("tfs_deploy.modelserver.rest.server")


def open_rest_port(core: ServerCore, flags: Flags, options: PredictOptions) -> RestServer | None:
    """Open the REST port of the flags, if any; like TF Serving, only log an error if it cannot be opened."""
    port = flags.number("rest_api_port")
    if not port:
        return None
    if port == flags.number("port"):
        logger.error(
            "server_options.http_port cannot be same as grpc_port. Please use a different port for HTTP/REST API. "
            "Skipped exporting HTTP/REST API."
        )
        return None
    metrics_path = text_config.metrics_page_path(flags.text("monitoring_config_file"))
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
