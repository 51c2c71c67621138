"""Errors as problem+json (RFC 9457): a cause and a remedy in plain sentences, without a stack trace."""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import Any

from tfs_deploy.errors import (
    Busy,
    DeadlineExceeded,
    InvalidInput,
    ModelServerError,
    NotFound,
    TFSDeployError,
    Unreachable,
)
from tfs_deploy.serving.rpc_calls import CallFailed

CONTENT_TYPE = "application/problem+json"

# Codes for a mistake in the client's request. Texts of TF Serving name nodes of the graph, but nothing of the host.
_CLIENT_ERROR_CODES = {"INVALID_ARGUMENT", "OUT_OF_RANGE"}
_BUSY_CODES = {"RESOURCE_EXHAUSTED"}
# The model server or a proxy before it is not available; the same request may succeed later.
_UNAVAILABLE_CODES = {"UNAVAILABLE", "CANCELLED", "ABORTED"}
_MAX_QUOTE = 300


class Problem(Exception):
    """One HTTP error reply.

    `detail` is one or two sentences for the author of the client; `title` is constant per kind of problem;
    `retry_after` is in seconds; `extra` are further members, e.g. ``{"item": 3}``.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        retry_after: float | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(status, title, detail)
        self.status = int(status)
        self.title = title
        self.detail = detail
        self.retry_after = retry_after
        self.extra = extra or {}

    def __str__(self) -> str:
        return f"{self.status} {self.title}: {self.detail}"

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that go with the status."""
        headers = {"Content-Type": CONTENT_TYPE}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        return headers

    def body(self, *, instance: str = "", request_id: str = "") -> bytes:
        """Return the document; `instance` is the path of the request."""
        document: dict[str, Any] = {
            **self.extra,
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if instance:
            document["instance"] = instance
        if request_id:
            document["request_id"] = request_id
        return json.dumps(document).encode()


def bad_request(detail: str) -> Problem:
    """Return the problem of a malformed request (400)."""
    return Problem(HTTPStatus.BAD_REQUEST, "Bad request", detail)


def unusable(detail: str, *, item: int | None = None) -> Problem:
    """Return the problem of a well-formed request that cannot be used (422); `item` counts from 0."""
    extra = None if item is None else {"item": item}
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "Unusable input", detail, extra=extra)


def not_found(detail: str) -> Problem:
    """Return the problem of an unknown name (404)."""
    return Problem(HTTPStatus.NOT_FOUND, "Not found", detail)


def too_busy(detail: str, *, retry_after: float = 1.0) -> Problem:
    """Return the problem of a request beyond a limit (429)."""
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests", detail, retry_after=retry_after)


def unavailable(detail: str, *, retry_after: float = 1.0) -> Problem:
    """Return the problem of a request that no model server can answer at the moment (503)."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "Service unavailable", detail, retry_after=retry_after)


def too_late(detail: str) -> Problem:
    """Return the problem of a request whose deadline passed (504)."""
    return Problem(HTTPStatus.GATEWAY_TIMEOUT, "Deadline passed", detail)


def bad_upstream(detail: str) -> Problem:
    """Return the problem of a model server that does not fit the configuration or misbehaves (502)."""
    return Problem(HTTPStatus.BAD_GATEWAY, "Bad gateway", detail)


def internal() -> Problem:
    """Return the problem of a bug in the gateway (500), without details."""
    return Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "Internal error",
        "The gateway failed on this request; its log has the reason under the request id.",
    )


def from_error(error: TFSDeployError, model: str) -> Problem:
    """Return the problem for a client of `model` after an error from a model server, without addresses."""
    if isinstance(error, InvalidInput):
        return unusable(str(error))
    if isinstance(error, DeadlineExceeded):
        return too_late(f"Model {model!r} did not answer before the request's deadline; try again.")
    if isinstance(error, Unreachable):
        return unavailable(f"No model server answers for model {model!r} at the moment; try again.")
    if isinstance(error, NotFound):
        return unavailable(f"Model {model!r} is not served with this label or version at the moment; try again.")
    if isinstance(error, (Busy, ModelServerError)):
        return _from_code(error, model)
    return internal()


def _from_code(error: Busy | ModelServerError, model: str) -> Problem:
    if error.code in _CLIENT_ERROR_CODES:
        return unusable(f"Model {model!r} refuses the input: {_quote(error)}")
    if error.code in _BUSY_CODES:
        return too_busy(f"The model servers of {model!r} are busy; try again.")
    if error.code in _UNAVAILABLE_CODES:
        return unavailable(f"No model server answers for model {model!r} at the moment; try again.")
    return bad_upstream(
        f"A model server failed on a request for model {model!r} with {error.code}; ask the operator of this gateway."
    )


def _quote(error: TFSDeployError) -> str:
    """Return the first line of the model server's message."""
    cause = error.__cause__
    text = cause.details if isinstance(cause, CallFailed) else ""
    line = next(iter(text.strip().splitlines()), "").rstrip(".") or "it gives no reason"
    return f"{line[:_MAX_QUOTE]}."
