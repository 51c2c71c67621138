"""TF Serving's two gRPC services, on generic handlers: no generated code, and TensorFlow's runtime only behind them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from tfs_deploy.modelserver.core import ServerCore
from tfs_deploy.modelserver.monitor import Event, ServableId
from tfs_deploy.modelserver.predict import PredictOptions, run_predict
from tfs_deploy.modelserver.status import Code, StatusError, invalid_argument, not_found, of_exception, truncated
from tfs_deploy.serving import messages, rpc

logger = logging.getLogger(__name__)

# Status and reload calls have threads of their own, so that reloads which wait for ever leave Predict alone.
_STATUS_THREADS = 4
_RELOAD_THREADS = 64

_GRPC_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

Behaviour = Callable[[Any, "grpc.ServicerContext"], Any]


class PredictionService:
    """Answers with a version: Predict and GetModelMetadata."""

    def __init__(self, core: ServerCore, options: PredictOptions) -> None:
        self._core = core
        self._options = options

    def predict(self, request: Any, context: grpc.ServicerContext) -> bytes:
        """Return the serialized PredictResponse."""
        _require_spec(request)
        remaining = context.time_remaining()
        # The run ends with the caller's deadline; without one there is no limit.
        timeout_ms = None if remaining is None else int(remaining * 1000)
        with self._core.lease(request.model_spec) as (_, servable):
            return run_predict(servable, request, self._options, timeout_ms=timeout_ms)

    def get_model_metadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Return the signatures as they stand in saved_model.pb, internal ones included."""
        _require_spec(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid_argument(f"Metadata field {field} is not supported")
        response = messages.GetModelMetadataResponse()
        with self._core.lease(request.model_spec) as (version, servable):
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = version
            response.metadata["signature_def"].Pack(servable.signature_defs)
        return response


class ModelService:
    """Tells the state of versions and takes configurations."""

    def __init__(self, core: ServerCore) -> None:
        self._core = core

    def get_model_status(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Return the rows of one version, or of all, the highest first; a label is ignored."""
        _require_spec(request)
        name = request.model_spec.name
        if request.model_spec.HasField("version"):
            number = request.model_spec.version.value
            event = self._core.monitor.version(ServableId(name, number))
            if event is None:
                raise not_found(f"Could not find version {number} of model {name}")
            events: tuple[Event, ...] = (event,)
        else:
            events = self._core.monitor.versions(name)
            if not events:
                raise not_found(f"Could not find any versions of model {name}")
        response = messages.GetModelStatusResponse()
        for event in events:
            row = response.model_version_status.add(version=event.id.version, state=int(event.state))
            row.status.error_code = int(event.code)
            row.status.error_message = event.message
        return response

    def handle_reload_config(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Apply the config; the caller's deadline does not stop it (contract 5.3)."""
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        self._core.reload(request.config)
        response = messages.ReloadConfigResponse()
        response.status.SetInParent()
        return response


def handlers(core: ServerCore, options: PredictOptions) -> tuple[grpc.GenericRpcHandler[Any, Any], ...]:
    """Return the handlers of both services; Classify, Regress and MultiInference are left to gRPC's UNIMPLEMENTED."""
    prediction, model = PredictionService(core, options), ModelService(core)
    status_pool = ThreadPoolExecutor(_STATUS_THREADS, thread_name_prefix="status")
    reload_pool = ThreadPoolExecutor(_RELOAD_THREADS, thread_name_prefix="reload")
    table: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
    for method, behaviour, pool in (
        (rpc.PREDICT, prediction.predict, None),
        (rpc.GET_MODEL_METADATA, prediction.get_model_metadata, status_pool),
        (rpc.GET_MODEL_STATUS, model.get_model_status, status_pool),
        (rpc.HANDLE_RELOAD_CONFIG, model.handle_reload_config, reload_pool),
    ):
        table.setdefault(method.service, {})[method.name] = _handler(method, behaviour, pool)
    return tuple(grpc.method_handlers_generic_handler(service, methods) for service, methods in table.items())


def _handler(
    method: rpc.Method, behaviour: Behaviour, pool: ThreadPoolExecutor | None
) -> grpc.RpcMethodHandler[Any, Any]:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return behaviour(request, context)
        except Exception as error:  # of any kind: the caller gets a code, the server lives on
            status = of_exception(error)
            if status is not error and status.code is Code.INTERNAL:
                logger.exception("%s failed", method.name)
            _set_status(context, status)
            return method.response_class()

    if pool is not None:
        # gRPC runs a behaviour that carries this attribute in that pool instead of the server's.
        answer.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return grpc.unary_unary_rpc_method_handler(
        answer, request_deserializer=method.request_class.FromString, response_serializer=_serialize
    )


def _set_status(context: grpc.ServicerContext, status: StatusError) -> None:
    context.set_code(_GRPC_CODES[int(status.code)])
    context.set_details(truncated(status.message))


def _serialize(response: Any) -> bytes:
    serialized: bytes = response if isinstance(response, bytes) else response.SerializeToString()
    return serialized


def _require_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
