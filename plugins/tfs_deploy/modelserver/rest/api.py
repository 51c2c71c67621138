"""The REST API without its transport: a method, a path and a body in, an answer out (contract 8)."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

from tfs_deploy.modelserver import metrics, service
from tfs_deploy.modelserver.inference.classify_regress import run_classify, run_regress
from tfs_deploy.modelserver.inference.predict import PredictOptions, predict_outputs
from tfs_deploy.modelserver.lifecycle.core import ServerCore
from tfs_deploy.modelserver.rest.classify import classify_body, fill_input, regress_body
from tfs_deploy.modelserver.rest.json_writer import error_body, metadata_body, status_body
from tfs_deploy.modelserver.rest.predict import (
    columns_body,
    fill_request,
    read_document,
    rows_body,
    signature_name,
)
from tfs_deploy.modelserver.service import model_metadata, model_status
from tfs_deploy.modelserver.status import Code, invalid_argument, of_exception
from tfs_deploy.serving.codec import messages

logger = logging.getLogger(__name__)

_JSON, _HTML, _TEXT = "application/json", "text/html", "text/plain"
_ORIGIN = re.compile(r"https?://")
# `EvHTTPServer::Initialize`; libevent itself turns others away.
_METHODS = frozenset(("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"))
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


@dataclass(frozen=True, slots=True)
class RestOptions:
    """The flags of REST; `timeout_ms` of None sets no limit, `metrics_path` of None serves no metrics."""

    predict: PredictOptions
    timeout_ms: int | None = None
    cors: bool = False
    metrics_path: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The HTTP response."""

    code: int
    body: bytes = b""
    content_type: str | None = _JSON


class RestApi:
    """Answers from one server core; `answer` may be called from many threads at once."""

    def __init__(self, core: ServerCore, options: RestOptions) -> None:
        self._core = core
        self._options = options
        self._run: dict[str, Callable[[RequestTarget, bytes], bytes]] = {
            "predict": self._predict,
            "classify": partial(self._on_examples, messages.ClassificationRequest, run_classify, classify_body),
            "regress": partial(self._on_examples, messages.RegressionRequest, run_regress, regress_body),
        }

    def headers(self, answer: Answer) -> dict[str, str]:
        """Return the headers of an answer, apart from its length."""
        headers = {} if answer.content_type is None else {"Content-Type": answer.content_type}
        return headers | _CORS if self._options.cors and answer.content_type in (_JSON, None) else headers

    def answer(self, http_method: str, uri: str, origin: str, body: bytes, encoding: str = "") -> Answer:
        """Return the answer; `origin` and `encoding` are the headers Origin and Content-Encoding."""
        if http_method not in _METHODS:
            return html_error(501)
        parts = split_uri(uri)
        if parts is None:
            return html_error(400)
        bare_path, path = parts
        if self._options.metrics_path is not None and bare_path == self._options.metrics_path:
            return self._metrics(path)
        if not is_served(path):
            return html_error(404)
        if http_method == "OPTIONS":
            # The answer to a preflight depends on its Origin only, with or without CORS.
            return Answer(200 if _ORIGIN.search(origin) else 400, content_type=None)
        try:
            return Answer(200, self._served(http_method, path, unpack(body, encoding)))
        except BadVersion:
            return Answer(http_code(Code.INVALID_ARGUMENT))
        except Exception as error:  # of any kind: the caller gets a code, the server goes on
            status = of_exception(error)
            if status is not error and status.code is Code.INTERNAL:
                logger.exception("%s %s failed", http_method, path)
            return Answer(http_code(status.code), error_body(status.message))

    def _metrics(self, path: str) -> Answer:
        if path != self._options.metrics_path:
            wrong = f"Unexpected path: {path}. Should be {self._options.metrics_path}"
            return Answer(400, wrong.encode(), _TEXT)
        return Answer(200, metrics.page().encode(), _TEXT)

    def _served(self, http_method: str, path: str, body: bytes) -> bytes:
        target = parse_request_line(http_method, path)
        with metrics.measured_request(target.model, target.method, "REST"):
            if target.method in self._run:
                return self._run[target.method](target, body)
            if not target.model:
                raise invalid_argument("Missing model name in request.")
            if target.method == "metadata":
                return self._metadata(target)
            events = model_status(self._core, messages.GetModelStatusRequest(model_spec=target.spec()))
            return status_body(service.status_message(events))

    def _metadata(self, target: RequestTarget) -> bytes:
        request = messages.GetModelMetadataRequest(model_spec=target.spec(), metadata_field=["signature_def"])
        return metadata_body(model_metadata(self._core, request))

    def _predict(self, target: RequestTarget, body: bytes) -> bytes:
        document = read_document(body)
        request = messages.PredictRequest(model_spec=target.spec())
        request.model_spec.signature_name = signature_name(document)
        with self._core.lease(request.model_spec) as (_, servable):
            rows = fill_request(request, document, servable)
            outputs = predict_outputs(servable, request, self._options.predict, timeout_ms=self._options.timeout_ms)
        return rows_body(outputs) if rows else columns_body(outputs)

    def _on_examples(
        self,
        request_class: Any,
        run: Callable[..., Any],
        body_of: Callable[[Any], bytes],
        target: RequestTarget,
        body: bytes,
    ) -> bytes:
        """Answer a classify or regress call; `run` gives the result, `body_of` the body for it."""
        document = read_document(body)
        request = request_class(model_spec=target.spec())
        request.model_spec.signature_name = signature_name(document)
        fill_input(request.input, document)
        with self._core.lease(request.model_spec) as (_, servable):
            result = run(
                servable,
                request,
                check_method_name=self._options.predict.check_method_name,
                timeout_ms=self._options.timeout_ms,
            )
        return body_of(result)


def html_error(code: int) -> Answer:
    """Return the page that TF Serving's HTTP library sends for requests that it does not dispatch."""
    phrase = reason_phrase(code)
    page = f"<HTML><HEAD>\n<TITLE>{code} {phrase}</TITLE>\n</HEAD><BODY>\n<H1>{phrase}</H1>\n</BODY></HTML>\n"
    return Answer(code, page.encode(), _HTML)


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
# libevent's phrases where they differ from `http.HTTPStatus`: its tables end at 417.
_REASONS = {429: "Client Error", 499: "Client Error", 504: "Gateway Time-out"}


def http_code(code: Code) -> int:
    """Return the HTTP code for `code`; 500 for the others."""
    return _HTTP.get(code, 500)


def reason_phrase(code: int) -> str:
    """Return the reason phrase of an HTTP code."""
    return _REASONS.get(code) or HTTPStatus(code).phrase


# `ZLib::kMaxUncompressedBytes` of `UTIL/net_http/compression/gzip_zlib.h`.
MAX_BYTES = 100 * 2**20
_GZIP_ONLY = 16 + zlib.MAX_WBITS


def unpack(body: bytes, encoding: str) -> bytes:
    """Return the body, unpacked if the encoding is gzip; empty if it is no gzip or too large, as in TF Serving."""
    if not body or "gzip" not in encoding:
        return body
    packed = zlib.decompressobj(_GZIP_ONLY)
    try:
        data = packed.decompress(body, MAX_BYTES)
    except zlib.error:
        return b""
    return data if packed.eof else b""


_NAME = r"[^/:]+"
_CHOICE = rf"(?:(?:/versions/(?P<version>[0-9]+))|(?:/labels/(?P<label>{_NAME})))?"
_RUN = re.compile(rf"/v1/models/(?P<model>{_NAME}){_CHOICE}:(?P<method>classify|regress|predict)", re.IGNORECASE)
_READ = re.compile(rf"/v1/models(?:/(?P<model>{_NAME}))?{_CHOICE}(?:/(?P<method>metadata))?", re.IGNORECASE)
_SERVED = re.compile(r"/v1/.*", re.IGNORECASE)

# libevent's grammar of a URI: other characters must be percent-encoded.
_CHAR = r"[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2}"
_URI = re.compile(
    rf"(?:(?:[A-Za-z][A-Za-z0-9+.\-]*:)?//[^/?#]*)?(?P<path>(?:{_CHAR})*)"
    rf"(?P<rest>(?:\?(?:{_CHAR}|\?)*)?(?:\#(?:{_CHAR}|\?)*)?)"
)

_INT64_MAX = 2**63 - 1


class BadVersion(Exception):
    """The version in the URL is no int64, for which TF Serving answers 400 with an empty body."""


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """The parsed URL; `method` is predict, classify, regress, metadata, or empty for the status."""

    model: str
    method: str
    version: int | None = None
    label: str | None = None

    def spec(self) -> Any:
        """Return the ModelSpec."""
        spec = messages.ModelSpec(name=self.model)
        if self.version is not None:
            spec.version.value = self.version
        if self.label is not None:
            spec.version_label = self.label
        return spec


def split_uri(uri: str) -> tuple[str, str] | None:
    """Return the path, and the path with query and fragment; None for an invalid URI."""
    match = _URI.fullmatch(uri)
    return None if match is None else (match["path"], match["path"] + match["rest"])


def is_served(path: str) -> bool:
    """Return whether `path` belongs to the REST API; other paths get a bare 404."""
    return _SERVED.fullmatch(path) is not None


def parse_request_line(http_method: str, path: str) -> RequestTarget:
    """Return the target of a request line; raise INVALID_ARGUMENT or BadVersion.

    `path` includes the query, which is part of the name. The match ignores the case, but a method must be lower case.
    """
    malformed = invalid_argument(f"Malformed request: {http_method} {_utf8(path.encode('latin-1', 'replace'))}")
    pattern = {"POST": _RUN, "GET": _READ}.get(http_method)
    match = pattern.fullmatch(path) if pattern else None
    if match is None:
        raise malformed
    version = match["version"]
    if version is not None and int(version) > _INT64_MAX:
        raise BadVersion(version)
    method = match["method"] or ""
    if http_method == "POST" and method != method.lower():
        raise malformed
    return RequestTarget(
        model=_decoded(match["model"] or ""),
        method="metadata" if method == "metadata" else method if http_method == "POST" else "",
        version=None if version is None else int(version),
        label=None if match["label"] is None else _decoded(match["label"]),
    )


def _decoded(name: str) -> str:
    """Return a name without its percent signs."""
    return _utf8(unquote_to_bytes(name.encode("latin-1", "replace")))


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
