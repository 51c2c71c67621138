"""What a client is told when its request is not answered: RFC 9457's problem+json, one sentence, no stack trace."""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import Any

import grpc

from tfs_deploy.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelServerError,
    NotFound,
    TFSDeployError,
    Unreachable,
)

CONTENT_TYPE = "application/problem+json"

# What TF Serving may say about the client's own request. Its texts name nodes of the graph, and nothing of the host.
_CLIENTS_FAULT = {"INVALID_ARGUMENT", "OUT_OF_RANGE"}
_BUSY = {"RESOURCE_EXHAUSTED"}
# The model server, or what stands before it, is not there: the same request may be answered a moment later.
_AWAY = {"UNAVAILABLE", "CANCELLED", "ABORTED"}
_MAX_QUOTE = 300


class Problem(Exception):
    """One HTTP answer that is an error.

    `detail` is one or two sentences for the person who wrote the client; `title` names the kind, the same for every
    problem of that kind; `retry_after` is in seconds; `extra` are further members, e.g. ``{"item": 3}``.
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
        self.status = status
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
        """Return the document; `instance` is the path that was asked."""
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
    """Return the problem of a request that cannot be read."""
    return Problem(HTTPStatus.BAD_REQUEST, "Bad request", detail)


def unusable(detail: str, *, item: int | None = None) -> Problem:
    """Return the problem of a request that can be read, but not used; `item` counts from 0."""
    extra = None if item is None else {"item": item}
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "Unusable input", detail, extra=extra)


def not_found(detail: str) -> Problem:
    """Return the problem of a name that nothing has."""
    return Problem(HTTPStatus.NOT_FOUND, "Not found", detail)


def too_busy(detail: str, *, retry_after: float = 1.0) -> Problem:
    """Return the problem of a request for which there is no room now."""
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests", detail, retry_after=retry_after)


def unavailable(detail: str, *, retry_after: float = 1.0) -> Problem:
    """Return the problem of a request that nobody can answer at the moment."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "Service unavailable", detail, retry_after=retry_after)


def too_late(detail: str) -> Problem:
    """Return the problem of a request whose deadline passed."""
    return Problem(HTTPStatus.GATEWAY_TIMEOUT, "Deadline passed", detail)


def bad_upstream(detail: str) -> Problem:
    """Return the problem of a model server that does not do what the gateway was told it does."""
    return Problem(HTTPStatus.BAD_GATEWAY, "Bad gateway", detail)


def internal() -> Problem:
    """Return what a client is told of a mistake of the gateway itself: nothing but the fact."""
    return Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "Internal error",
        "The gateway failed on this request; its log has the reason under the request id.",
    )


def from_error(error: TFSDeployError, model: str) -> Problem:
    """Return what a client of `model` is told of an error from a model server, addresses and hosts left out."""
    if isinstance(error, InvalidInput):
        return unusable(str(error))
    if isinstance(error, DeadlineExceeded):
        return too_late(f"Model {model!r} did not answer within the request's time.")
    if isinstance(error, Unreachable):
        return unavailable(f"No model server answers for model {model!r} at the moment; try again.")
    if isinstance(error, NotFound):
        return unavailable(f"Model {model!r} is not served as configured at the moment; try again.")
    if isinstance(error, ModelServerError):
        return _from_code(error, model)
    return internal()


def _from_code(error: ModelServerError, model: str) -> Problem:
    if error.code in _CLIENTS_FAULT:
        return unusable(f"Model {model!r} refuses the input: {_quote(error)}")
    if error.code in _BUSY:
        return too_busy(f"The model servers of {model!r} are busy; try again.")
    if error.code in _AWAY:
        return unavailable(f"No model server answers for model {model!r} at the moment; try again.")
    return bad_upstream(f"A model server failed on a request for model {model!r} with {error.code}.")


def _quote(error: ModelServerError) -> str:
    """Return the first line of what the model server said."""
    said = error.__cause__
    text = (said.details() or "") if isinstance(said, grpc.aio.AioRpcError) else ""
    line = next(iter(text.strip().splitlines()), "").rstrip(".") or "it gives no reason"
    return f"{line[:_MAX_QUOTE]}."
