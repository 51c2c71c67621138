"""TF Serving's two gRPC services, on generic handlers, without generated code."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from tfs_deploy.modelserver import metrics
from tfs_deploy.modelserver.inference.classify_regress import encode_response, run_classify, run_regress
from tfs_deploy.modelserver.inference.multi_inference import encode_multi_inference, run_multi_inference, spec_of
from tfs_deploy.modelserver.inference.predict import PredictOptions, run_predict
from tfs_deploy.modelserver.lifecycle.core import ServerCore
from tfs_deploy.modelserver.lifecycle.monitor import Event, ServableId
from tfs_deploy.modelserver.status import (
    Code,
    StatusError,
    invalid_argument,
    message_bytes,
    not_found,
    of_exception,
    truncated,
)
from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages
from tfs_deploy.serving.codec.predict import PredictCall, decode_predict_request
from tfs_deploy.serving.codec.wire_format import length_delimited, varint

logger = logging.getLogger(__name__)

# Status and reload calls have their own threads, so that reloads that wait forever leave those of Predict free.
_STATUS_THREADS = 4
_RELOAD_THREADS = 64
# Beside those that answer: they refuse calls above the limit, which takes no time.
REFUSING_THREADS = 4
_EXHAUSTED = "Server Threadpool Exhausted"
# `gpr_time_to_millis`: C++ servers cut the time left to an int32.
_MAX_TIMEOUT_MS = 2**31 - 1

_GRPC_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

# Decoders that make fewer copies than protobuf.
_DECODERS: dict[rpc.Method, Callable[[bytes], Any]] = {rpc.PREDICT: decode_predict_request}

# Stands for bytes that are no request: a C++ server answers INTERNAL without a message.
_UNREADABLE = object()

Behaviour = Callable[[Any, "grpc.ServicerContext"], Any]


class PredictionService:
    """The RPCs that use one version: Predict, Classify, Regress, MultiInference and GetModelMetadata."""

    def __init__(self, core: ServerCore, options: PredictOptions) -> None:
        self._core = core
        self._options = options

    def predict(self, request: PredictCall, context: grpc.ServicerContext) -> bytes:
        """Return the serialized PredictResponse."""
        if not request.has_spec:
            raise invalid_argument("Missing ModelSpec")
        with self._core.lease(request.model_spec) as (_, servable):
            return run_predict(servable, request, self._options, timeout_ms=_timeout_ms(context))

    def classify(self, request: Any, context: grpc.ServicerContext) -> bytes:
        """Return the serialized ClassificationResponse."""
        _require_spec(request)
        with self._core.lease(request.model_spec) as (_, servable):
            return encode_response(run_classify(servable, request, **self._run_options(context)))

    def regress(self, request: Any, context: grpc.ServicerContext) -> bytes:
        """Return the serialized RegressionResponse."""
        _require_spec(request)
        with self._core.lease(request.model_spec) as (_, servable):
            return encode_response(run_regress(servable, request, **self._run_options(context)))

    def multi_inference(self, request: Any, context: grpc.ServicerContext) -> bytes:
        """Return the serialized MultiInferenceResponse; the first task's spec chooses the version."""
        with self._core.lease(spec_of(request)) as (_, servable):
            return encode_multi_inference(run_multi_inference(servable, request, **self._run_options(context)))

    def get_model_metadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Return the GetModelMetadataResponse."""
        return model_metadata(self._core, request)

    def _run_options(self, context: grpc.ServicerContext) -> dict[str, Any]:
        return {"check_method_name": self._options.check_method_name, "timeout_ms": _timeout_ms(context)}


class ModelService:
    """The RPCs of the server's state: GetModelStatus and HandleReloadConfigRequest."""

    def __init__(self, core: ServerCore) -> None:
        self._core = core

    def get_model_status(self, request: Any, context: grpc.ServicerContext) -> bytes:
        """Return the serialized GetModelStatusResponse."""
        return encode_status(model_status(self._core, request))

    def handle_reload_config(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Apply the config; the caller's deadline does not stop it (contract 5.3)."""
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        if request.metric_names:
            metrics.turn_on()  # before the loads of this reload, which are counted
        before = metrics.counts(request.metric_names)
        self._core.reload(request.config)
        response = messages.ReloadConfigResponse()
        response.status.SetInParent()
        for name, count in metrics.counts(before).items():
            response.metric.add(name=name, int64_value_increase=count - before[name])
        return response


def model_metadata(core: ServerCore, request: Any) -> Any:
    """Return all signatures in a version's saved_model.pb, also internal ones."""
    _require_spec(request)
    if not request.metadata_field:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            raise invalid_argument(f"Metadata field {field} is not supported")
    response = messages.GetModelMetadataResponse()
    with core.lease(request.model_spec) as (version, servable):
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        response.metadata["signature_def"].Pack(servable.signature_defs)
    return response


def model_status(core: ServerCore, request: Any) -> tuple[Event, ...]:
    """Return the rows of one version, or of all in descending order; a label is ignored."""
    _require_spec(request)
    name = request.model_spec.name
    if request.model_spec.HasField("version"):
        number = request.model_spec.version.value
        event = core.monitor.version(ServableId(name, number))
        if event is None:
            raise not_found(f"Could not find version {number} of model {name}")
        return (event,)
    events = core.monitor.versions(name)
    if not events:
        raise not_found(f"Could not find any versions of model {name}")
    return events


def handlers(
    core: ServerCore, options: PredictOptions, *, max_threads: int
) -> tuple[grpc.GenericRpcHandler[Any, Any], ...]:
    """Return the handlers of both services, then that of unknown methods.

    While `max_threads` calls run, every further one is refused at once, whatever its method (contract 20.12).
    """
    prediction, model = PredictionService(core, options), ModelService(core)
    slots = threading.BoundedSemaphore(max_threads)
    status_pool = ThreadPoolExecutor(_STATUS_THREADS, thread_name_prefix="status")
    reload_pool = ThreadPoolExecutor(_RELOAD_THREADS, thread_name_prefix="reload")
    table: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
    for method, behaviour, pool in (
        (rpc.PREDICT, _with_metrics(rpc.PREDICT, prediction.predict), None),
        (rpc.CLASSIFY, _with_metrics(rpc.CLASSIFY, prediction.classify), None),
        (rpc.REGRESS, _with_metrics(rpc.REGRESS, prediction.regress), None),
        (rpc.MULTI_INFERENCE, prediction.multi_inference, None),
        (rpc.GET_MODEL_METADATA, prediction.get_model_metadata, status_pool),
        (rpc.GET_MODEL_STATUS, model.get_model_status, status_pool),
        (rpc.HANDLE_RELOAD_CONFIG, model.handle_reload_config, reload_pool),
    ):
        table.setdefault(method.service, {})[method.name] = _handler(method, _within(slots, behaviour), pool)
    served = (grpc.method_handlers_generic_handler(service, methods) for service, methods in table.items())
    return (*served, _UnknownMethod())


class _UnknownMethod(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs only
    """Answers unknown methods with UNIMPLEMENTED without a message, as C++ servers; gRPC for Python adds one."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler for an unknown method of any kind."""
        return grpc.stream_stream_rpc_method_handler(_unimplemented)


def _unimplemented(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
    yield b""


def _with_metrics(method: rpc.Method, behaviour: Behaviour) -> Behaviour:
    """Return `behaviour` with its calls counted, if metrics are recorded."""
    if not metrics.are_on():
        return behaviour

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        with metrics.measured_request(request.model_spec.name, method.name, "GRPC"):
            return behaviour(request, context)

    return answer


def _within(slots: threading.BoundedSemaphore, behaviour: Behaviour) -> Behaviour:
    """Return `behaviour` that takes one of `slots` while it runs; raise RESOURCE_EXHAUSTED where none is free."""

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        if not slots.acquire(blocking=False):
            raise StatusError(Code.RESOURCE_EXHAUSTED, _EXHAUSTED)
        try:
            return behaviour(request, context)
        finally:
            slots.release()

    return answer


def _handler(
    method: rpc.Method, behaviour: Behaviour, pool: ThreadPoolExecutor | None
) -> grpc.RpcMethodHandler[Any, Any]:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            if request is _UNREADABLE:
                raise StatusError(Code.INTERNAL, "")
            return behaviour(request, context)
        except Exception as error:  # of any kind: the caller gets a code, the server goes on
            status = of_exception(error)
            if status is not error and status.code is Code.INTERNAL:
                logger.exception("%s failed", method.name)
            _set_status(context, status)
            return method.response_class()

    if pool is not None:
        # gRPC runs a behaviour that carries this attribute in that pool instead of the server's.
        answer.experimental_thread_pool = pool  # type: ignore[attr-defined]
    decode = _DECODERS.get(method, method.request_class.FromString)

    def read(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return _UNREADABLE

    return grpc.unary_unary_rpc_method_handler(answer, request_deserializer=read, response_serializer=_serialize)


def _set_status(context: grpc.ServicerContext, status: StatusError) -> None:
    context.set_code(_GRPC_CODES[int(status.code)])
    # As bytes, which gRPC's stubs omit: the text may be no UTF-8, or be truncated within a character.
    context.set_details(truncated(status.message))  # type: ignore[arg-type]


def _serialize(response: Any) -> bytes:
    serialized: bytes = response if isinstance(response, bytes) else response.SerializeToString()
    return serialized


def _timeout_ms(context: grpc.ServicerContext) -> int | None:
    """Return the milliseconds until the caller's deadline; None, for no limit, without one or with one far away."""
    remaining = context.time_remaining()
    # grpcio describes a call without a deadline as one with some 9.2e18 s left, which no RunOptions can hold.
    return None if remaining is None or remaining * 1000 > _MAX_TIMEOUT_MS else int(remaining * 1000)


def _require_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


# get_model_status.proto, status.proto; enums and int64 are varints.
_STATUS_ROW = 1
_VERSION, _STATE, _STATUS = 1, 2, 3
_CODE, _MESSAGE = 1, 2
_UINT64 = 2**64


def encode_status(events: Iterable[Event]) -> bytes:
    """Return the serialized GetModelStatusResponse of gRPC.

    By hand, because a load's message may quote bytes that are no UTF-8 (contract 20.7): TF Serving sends them as they
    are, Python's protobuf refuses them.
    """
    return b"".join(length_delimited(_STATUS_ROW, _status_row(event)) for event in events)


def status_message(events: Iterable[Event]) -> Any:
    """Return the GetModelStatusResponse of REST; bytes that are no UTF-8 are replaced."""
    response = messages.GetModelStatusResponse()
    for event in events:
        row = response.model_version_status.add(version=event.id.version, state=int(event.state))
        row.status.error_code = int(event.code)
        row.status.error_message = message_bytes(event.message).decode("utf-8", errors="replace")
    return response


def _status_row(event: Event) -> bytes:
    text = message_bytes(event.message)
    status = _varint_field(_CODE, int(event.code)) + (length_delimited(_MESSAGE, text) if text else b"")
    return (
        _varint_field(_VERSION, event.id.version)
        + _varint_field(_STATE, int(event.state))
        + length_delimited(_STATUS, status)
    )


def _varint_field(field: int, value: int) -> bytes:
    """Return a varint field; nothing for 0, as proto3 does."""
    return varint(field << 3) + varint(value % _UINT64) if value else b""
