"""The unary methods of TF Serving's two services, and the error that a failed call stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tfs_deploy.errors import DeadlineExceeded, ModelServerError, NotFound, TFSDeployError, Unreachable
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


def to_error(code: str, details: str, *, target: str, action: str, timeout: float) -> TFSDeployError:
    """Return the error for a call to `target` that ended with the gRPC status `code`, e.g. ``NOT_FOUND``.

    `action` describes the call, e.g. ``Predict on model 'm'``; `timeout` is its time in seconds.
    """
    quoted = details.strip().rstrip(".!") or "no details"
    if code == "UNAVAILABLE":
        return _unavailable(quoted, target, action)
    if code == "DEADLINE_EXCEEDED":
        return _deadline_exceeded(target, action, timeout)
    if code == "NOT_FOUND" or (code == "INVALID_ARGUMENT" and "Unrecognized servable version label" in details):
        return NotFound(
            f"The model server at {target} cannot find what {action} asks for: {quoted}.",
            "Check the model name, the version's state and the labels with: tfs-deploy status.",
        )
    if code == "UNIMPLEMENTED":
        return ModelServerError(
            f"The server at {target} speaks gRPC, but it does not offer {action}: {quoted}.",
            "Check that the target is TensorFlow Serving's gRPC port (--port, 8500 by default), not another service.",
            code=code,
        )
    return ModelServerError(
        f"The model server at {target} answered {action} with {code}: {quoted}.",
        "Correct what the message names; the server's log may say more.",
        code=code,
    )


def _unavailable(quoted: str, target: str, action: str) -> TFSDeployError:
    if _TLS.search(quoted):
        return ModelServerError(
            f"No TLS connection to {target}: {quoted}.",
            "Use TLS exactly if the server does, with its root certificate and the name that its certificate carries.",
            code="UNAVAILABLE",
        )
    if _NOT_GRPC.search(quoted):
        return ModelServerError(
            f"What listens at {target} does not speak gRPC: {quoted}.",
            "Use TensorFlow Serving's gRPC port (8500 by default), not its REST port; add TLS if it asks for it.",
            code="UNAVAILABLE",
        )
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
