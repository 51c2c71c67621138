"""Status codes as HTTP codes (contract 8)."""

from __future__ import annotations

from http import HTTPStatus

from tfs_deploy.modelserver.status import Code

_HTTP = {
    Code.OK: 200,
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
# libevent's phrases where they are not those of `http.HTTPStatus`: its tables end at 417.
_REASONS = {429: "Client Error", 499: "Client Error", 504: "Gateway Time-out"}


def http_code(code: Code) -> int:
    """Return the HTTP code for `code`; 500 for what has none of its own."""
    return _HTTP.get(code, 500)


def reason(code: int) -> str:
    """Return the reason phrase of an HTTP code."""
    return _REASONS.get(code) or HTTPStatus(code).phrase
