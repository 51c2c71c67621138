"""The unary methods of TF Serving's two services, and the error that a failed call stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tfs_deploy.errors import (
    Busy,
    DeadlineExceeded,
    ModelServerError,
    NotFound,
    NotServed,
    SetupError,
    TFSDeployError,
    Unreachable,
)
from tfs_deploy.serving.codec import messages


@dataclass(frozen=True, slots=True)
class Method:
    """One unary method; `request` and `response` are names in `messages.FULL_NAMES`."""

    service: str
    name: str
    request: str
    response: str

    @property
    def path(self) -> str:
        """Return the path that gRPC sends, ``/service/method``."""
        return f"/{self.service}/{self.name}"

    @property
    def request_class(self) -> Any:
        """Return the message class of the request."""
        return getattr(messages, self.request)

    @property
    def response_class(self) -> Any:
        """Return the message class of the response."""
        return getattr(messages, self.response)


PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"

PREDICT = Method(PREDICTION_SERVICE, "Predict", "PredictRequest", "PredictResponse")
CLASSIFY = Method(PREDICTION_SERVICE, "Classify", "ClassificationRequest", "ClassificationResponse")
REGRESS = Method(PREDICTION_SERVICE, "Regress", "RegressionRequest", "RegressionResponse")
MULTI_INFERENCE = Method(PREDICTION_SERVICE, "MultiInference", "MultiInferenceRequest", "MultiInferenceResponse")
GET_MODEL_METADATA = Method(
    PREDICTION_SERVICE, "GetModelMetadata", "GetModelMetadataRequest", "GetModelMetadataResponse"
)
GET_MODEL_STATUS = Method(MODEL_SERVICE, "GetModelStatus", "GetModelStatusRequest", "GetModelStatusResponse")
HANDLE_RELOAD_CONFIG = Method(MODEL_SERVICE, "HandleReloadConfigRequest", "ReloadConfigRequest", "ReloadConfigResponse")
METHODS = (
    PREDICT,
    CLASSIFY,
    REGRESS,
    MULTI_INFERENCE,
    GET_MODEL_METADATA,
    GET_MODEL_STATUS,
    HANDLE_RELOAD_CONFIG,
)

# gRPC's core writes these when the peer's bytes are not HTTP/2, for example an HTTP/1 server's.
_NOT_GRPC = re.compile(r"http1\.x server|Failed parsing HTTP/2|Expected SETTINGS frame", re.I)
# It writes these when only one side speaks TLS, or the certificate does not fit.
_TLS = re.compile(r"SSL_ERROR_SSL|TSI_PROTOCOL_FAILURE|Verification Check failed", re.I)
# It writes these, with INTERNAL or UNKNOWN, when a connection ends during a call.
_CONNECTION_LOST = re.compile(r"stream removed|RST_STREAM|socket closed|connection reset|broken pipe|GOAWAY", re.I)
# And this one when a proxy answers with an HTTP error.
_HTTP_ERROR = re.compile(r"http2 header with status|:status header", re.I)
# gRPC's core and Go's write this for a message above the limit of the sender or the receiver (contract 14).
_TOO_LARGE = re.compile(r"message larger than max", re.I)
# The server was too busy to run the call (contract 20.12).
_BUSY_CODES = {"RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED"}
# "The batch scheduling queue to which this task was submitted is full", with UNAVAILABLE.
_QUEUE_FULL = re.compile(r"queue\b.{0,80}\bfull\b", re.I | re.S)
# The method does not exist: C++ servers say nothing, others one of these. An operation of a graph says more.
_NO_METHOD = re.compile(r"((method not found|unknown (service|method)|.*http2 header).*)?", re.I | re.S)
# The request is within the model's limits, but above those of --batching_parameters_file (contract 20.13).
_ABOVE_BATCH_SIZE = re.compile(r"larger than maximum input batch size", re.I)
_ABSENT = re.compile(r"Servable not found|Could not find (any versions|version -?\d+) of model", re.I)
_ABSENT_LABEL = "Unrecognized servable version label"


def to_error(code: str, details: str, *, target: str, action: str, timeout: float) -> TFSDeployError:
    """Return the error for a call to `target` that ended with the gRPC status `code`, e.g. ``NOT_FOUND``.

    `action` describes the call, e.g. ``Predict on model 'm'``; `timeout` is its time in seconds.
    """
    quoted = details.strip().rstrip(".!") or "no details"
    if code == "DEADLINE_EXCEEDED":
        return _deadline_exceeded(target, action, timeout)
    if code == "UNAVAILABLE":
        return _unavailable(quoted, target, action)
    if code == "NOT_FOUND" or (code == "INVALID_ARGUMENT" and _ABSENT_LABEL in details):
        return _absent(quoted, target, action)
    if code in _BUSY_CODES and not _TOO_LARGE.search(details):
        return _busy(code, quoted, target, action)
    if code in ("INTERNAL", "UNKNOWN") and _CONNECTION_LOST.search(details):
        return _unreachable(quoted, target, action)
    if code == "UNIMPLEMENTED" and _NO_METHOD.fullmatch(details.strip()):
        return SetupError(
            f"The server at {target} speaks gRPC, but it does not offer {action}: {quoted}.",
            "Check that the target is TensorFlow Serving's gRPC port (--port, 8500 by default), not another service.",
            code=code,
        )
    cause = f"The model server at {target} answered {action} with {code}: {quoted}."
    remedy = _setup_remedy(code, details)
    if remedy:
        return SetupError(cause, remedy, code=code)
    return ModelServerError(cause, "Correct what the message names; the server's log may say more.", code=code)


def ended_early(details: str, *, target: str, action: str, left: float) -> Unreachable:
    """Return the error for a read that something else than its own deadline ended, `left` seconds before that."""
    quoted = details.strip().rstrip(".!") or "no details"
    return Unreachable(
        f"{action} at {target} was ended with DEADLINE_EXCEEDED {left:.1f} s before its deadline: {quoted}.",
        "Check the time limit of the proxy before the model server, or of the server itself.",
    )


def _setup_remedy(code: str, details: str) -> str:
    """Return what to do about an error that no model causes; empty for an error that a model may cause."""
    if _TOO_LARGE.search(details):
        return "Send smaller requests, or raise the message limit that the server or a proxy before it sets."
    if _ABOVE_BATCH_SIZE.search(details):
        return "Send smaller batches, or raise max_batch_size in the server's --batching_parameters_file."
    if code in ("PERMISSION_DENIED", "UNAUTHENTICATED") or _HTTP_ERROR.search(details):
        return "Check the proxy before the model server, and what it requires of this client."
    return ""


def _absent(quoted: str, target: str, action: str) -> NotFound:
    # An operation of a graph may answer NOT_FOUND, too.
    kind = NotServed if _ABSENT.search(quoted) or _ABSENT_LABEL in quoted else NotFound
    return kind(
        f"The model server at {target} cannot find what {action} asks for: {quoted}.",
        "Check the model name, the version's state and the labels with: tfs-deploy status.",
    )


def _busy(code: str, quoted: str, target: str, action: str) -> Busy:
    return Busy(
        f"The model server at {target} is busy: it answered {action} with {code}: {quoted}.",
        "Try again later; under load a server needs --grpc_max_threads well above the number of its clients.",
        code=code,
    )


def _unavailable(quoted: str, target: str, action: str) -> TFSDeployError:
    if _TLS.search(quoted):
        return SetupError(
            f"No TLS connection to {target}: {quoted}.",
            "Use TLS exactly if the server does, with its root certificate and the name that its certificate carries.",
            code="UNAVAILABLE",
        )
    if _NOT_GRPC.search(quoted):
        return SetupError(
            f"What listens at {target} does not speak gRPC: {quoted}.",
            "Use TensorFlow Serving's gRPC port (8500 by default), not its REST port; add TLS if it asks for it.",
            code="UNAVAILABLE",
        )
    if _QUEUE_FULL.search(quoted):
        return _busy("UNAVAILABLE", quoted, target, action)
    return _unreachable(quoted, target, action)


def _unreachable(quoted: str, target: str, action: str) -> Unreachable:
    return Unreachable(
        f"The model server at {target} did not answer {action}: {quoted}.",
        "Check that it runs, that this machine reaches the port, and that both sides use TLS or neither.",
    )


def _deadline_exceeded(target: str, action: str, timeout: float) -> TFSDeployError:
    cause = f"The model server at {target} did not finish {action} within {timeout:g} s"
    if HANDLE_RELOAD_CONFIG.name in action:
        return DeadlineExceeded(
            f"{cause}; whether the new configuration is in force is unknown.",
            "Read the status before anything else; do not send the same configuration in a loop.",
        )
    return DeadlineExceeded(
        f"{cause}.", "Give it a longer timeout, or check that it is a model server and not overloaded."
    )
