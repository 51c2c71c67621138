"""The REST API without its transport: a method, a path and a body in, an answer out (contract 8)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tfs_deploy.modelserver import metrics, status_reply
from tfs_deploy.modelserver.inference.classify import run_classify
from tfs_deploy.modelserver.inference.predict import PredictOptions, predict_outputs
from tfs_deploy.modelserver.inference.regress import run_regress
from tfs_deploy.modelserver.lifecycle.core import ServerCore
from tfs_deploy.modelserver.rest import urls as rest_urls
from tfs_deploy.modelserver.rest.classify import classify_body, fill_input, regress_body
from tfs_deploy.modelserver.rest.errors import http_code, reason
from tfs_deploy.modelserver.rest.gzip_body import unpacked
from tfs_deploy.modelserver.rest.json_writer import error_body
from tfs_deploy.modelserver.rest.messages import metadata_body, status_body
from tfs_deploy.modelserver.rest.predict import (
    columns_body,
    fill_request,
    read_document,
    rows_body,
    signature_name,
)
from tfs_deploy.modelserver.rest.urls import Target
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
    """What the flags say about REST; `timeout_ms` of None sets no limit, `metrics_path` of None serves no metrics."""

    predict: PredictOptions
    timeout_ms: int | None = None
    cors: bool = False
    metrics_path: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back."""

    code: int
    body: bytes = b""
    content_type: str | None = _JSON


class RestApi:
    """Answers from one server core; `answer` may be called from many threads at once."""

    def __init__(self, core: ServerCore, options: RestOptions) -> None:
        self._core = core
        self._options = options
        self._run: dict[str, Callable[[Target, bytes], bytes]] = {
            "predict": self._predict,
            "classify": self._classify,
            "regress": self._regress,
        }

    def headers(self, answer: Answer) -> dict[str, str]:
        """Return the headers of an answer, apart from its length."""
        headers = {} if answer.content_type is None else {"Content-Type": answer.content_type}
        return headers | _CORS if self._options.cors and answer.content_type in (_JSON, None) else headers

    def answer(self, http_method: str, uri: str, origin: str, body: bytes, encoding: str = "") -> Answer:
        """Return the answer; `origin` and `encoding` are the headers Origin and Content-Encoding."""
        if http_method not in _METHODS:
            return html_error(501)
        parts = rest_urls.split(uri)
        if parts is None:
            return html_error(400)
        bare_path, path = parts
        if self._options.metrics_path is not None and bare_path == self._options.metrics_path:
            return self._metrics(path)
        if not rest_urls.is_served(path):
            return html_error(404)
        if http_method == "OPTIONS":
            # A preflight is answered by its Origin alone, with or without CORS.
            return Answer(200 if _ORIGIN.search(origin) else 400, content_type=None)
        try:
            return Answer(200, self._served(http_method, path, unpacked(body, encoding)))
        except rest_urls.BadVersion:
            return Answer(http_code(Code.INVALID_ARGUMENT))
        except Exception as error:  # of any kind: the caller gets a code, the server lives on
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
        target = rest_urls.parse(http_method, path)
        with metrics.measured_request(target.model, target.method, "REST"):
            if target.method in self._run:
                return self._run[target.method](target, body)
            if not target.model:
                raise invalid_argument("Missing model name in request.")
            if target.method == "metadata":
                return self._metadata(target)
            events = model_status(self._core, messages.GetModelStatusRequest(model_spec=target.spec()))
            return status_body(status_reply.as_message(events))

    def _metadata(self, target: Target) -> bytes:
        request = messages.GetModelMetadataRequest(model_spec=target.spec(), metadata_field=["signature_def"])
        return metadata_body(model_metadata(self._core, request))

    def _predict(self, target: Target, body: bytes) -> bytes:
        document = read_document(body)
        request = messages.PredictRequest(model_spec=target.spec())
        request.model_spec.signature_name = signature_name(document)
        with self._core.lease(request.model_spec) as (_, servable):
            rows = fill_request(request, document, servable)
            outputs = predict_outputs(servable, request, self._options.predict, timeout_ms=self._options.timeout_ms)
        return rows_body(outputs) if rows else columns_body(outputs)

    def _classify(self, target: Target, body: bytes) -> bytes:
        request = self._inference_request(messages.ClassificationRequest, target, body)
        with self._core.lease(request.model_spec) as (_, servable):
            result = run_classify(
                servable,
                request,
                check_method_name=self._options.predict.check_method_name,
                timeout_ms=self._options.timeout_ms,
            )
        return classify_body(result)

    def _regress(self, target: Target, body: bytes) -> bytes:
        request = self._inference_request(messages.RegressionRequest, target, body)
        with self._core.lease(request.model_spec) as (_, servable):
            result = run_regress(
                servable,
                request,
                check_method_name=self._options.predict.check_method_name,
                timeout_ms=self._options.timeout_ms,
            )
        return regress_body(result)

    def _inference_request(self, kind: Any, target: Target, body: bytes) -> Any:
        document = read_document(body)
        request = kind(model_spec=target.spec())
        request.model_spec.signature_name = signature_name(document)
        fill_input(request.input, document)
        return request


def html_error(code: int) -> Answer:
    """Return the page that TF Serving's HTTP library sends for what it does not dispatch."""
    phrase = reason(code)
    page = f"<HTML><HEAD>\n<TITLE>{code} {phrase}</TITLE>\n</HEAD><BODY>\n<H1>{phrase}</H1>\n</BODY></HTML>\n"
    return Answer(code, page.encode(), _HTML)
