"""The OpenAPI 3.1 document of this gateway: one path per model, with JSON schemas by its processors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfs_deploy import __version__
from tfs_deploy.gateway.config import GatewayConfig
from tfs_deploy.gateway.problem import CONTENT_TYPE as PROBLEM_CONTENT_TYPE
from tfs_deploy.gateway.web.body import FORM, TIMEOUT_HEADER
from tfs_deploy.gateway.web.endpoint import Endpoint
from tfs_deploy.gateway.web.message import JSON

_NULLABLE_INTEGER = {"type": ["integer", "null"]}
_NULLABLE_STRING = {"type": ["string", "null"]}
_NULLABLE_NUMBER = {"type": ["number", "string", "null"]}
# NaN and the infinities are strings: JSON has no numbers for them.
_NUMBER = {"type": ["number", "string"]}

PROBLEM_SCHEMA = {
    "description": "RFC 9457",
    "type": "object",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "request_id": {"type": "string"},
        "item": {"type": "integer", "minimum": 0},
    },
}
MODEL_SCHEMA = {
    "type": "object",
    "required": ["name", "description", "accepts", "label", "labels", "version", "inputs"],
    "properties": {
        "name": {"type": "string"},
        "description": {"type": "string"},
        "accepts": {"enum": ["image", "text", "json"]},
        "label": _NULLABLE_STRING,
        "labels": {"type": "array", "items": {"type": "string"}},
        "version": _NULLABLE_INTEGER,
        "inputs": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
_BYTES = [
    {
        "type": "object",
        "required": ["url"],
        "additionalProperties": False,
        "properties": {"url": {"type": "string", "format": "uri"}},
    },
    {
        "type": "object",
        "required": ["b64"],
        "additionalProperties": False,
        "properties": {"b64": {"type": "string", "contentEncoding": "base64"}},
    },
]
_ITEMS: dict[str, dict[str, Any]] = {
    "image": {"anyOf": _BYTES},
    "text": {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "required": ["text"],
                "additionalProperties": False,
                "properties": {"text": {"type": "string"}},
            },
        ]
    },
}
_CLASS = {
    "type": "object",
    "required": ["label", "index", "score"],
    "properties": {"label": {"type": "string"}, "index": {"type": "integer"}, "score": _NUMBER},
}
_BOX = {
    "type": "object",
    "required": ["left", "top", "right", "bottom", "score"],
    "properties": {
        **{side: _NUMBER for side in ("left", "top", "right", "bottom", "score")},
        "label": {"type": "string"},
    },
}
_RESULTS: dict[str, dict[str, Any]] = {
    "classification": {
        "type": "object",
        "required": ["label", "score", "classes"],
        "properties": {
            "label": _NULLABLE_STRING,
            "score": _NULLABLE_NUMBER,
            "classes": {"type": "array", "items": _CLASS},
        },
    },
    "boxes": {
        "type": "object",
        "required": ["boxes"],
        "properties": {
            "boxes": {"type": "array", "items": _BOX},
            "width": {"type": "integer"},
            "height": {"type": "integer"},
        },
    },
}


def items_schema(endpoint: Endpoint, most: int) -> dict[str, Any]:
    """Return the schema of a JSON body."""
    # An empty schema accepts every value.
    item: dict[str, Any] = _ITEMS.get(endpoint.accepts, {})
    return {
        "anyOf": [
            {
                "type": "object",
                "required": ["items"],
                "additionalProperties": False,
                "properties": {"items": {"type": "array", "minItems": 1, "maxItems": most, "items": item}},
            },
            {
                "type": "object",
                "required": ["item"],
                "additionalProperties": False,
                "properties": {"item": item},
            },
        ]
    }


def form_schema(endpoint: Endpoint, most: int) -> dict[str, Any]:
    """Return the schema of a form: one field, with files or texts."""
    part = {"type": "string"} if endpoint.accepts == "text" else {"type": "string", "format": "binary"}
    return {
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {"items": {"type": "array", "minItems": 1, "maxItems": most, "items": part}, "item": part},
    }


def answer_schema(endpoint: Endpoint) -> dict[str, Any]:
    """Return the schema of a reply."""
    result = _RESULTS.get(endpoint.answers.name, {})
    common = {"model": {"type": "string"}, "version": {"type": "integer"}}
    if endpoint.config.label:
        common["label"] = {"type": "string"}
    return {
        "type": "object",
        "required": list(common),
        "properties": {**common, "results": {"type": "array", "items": result}, "result": result},
        "anyOf": [{"required": ["results"]}, {"required": ["result"]}],
    }


_PROBLEMS = {
    "400": "The request cannot be read: malformed, wrong types, missing or unknown members.",
    "401": "The API key is missing or unknown.",
    "404": "The model or the label does not exist.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large, or there are too many items.",
    "415": "The body is neither JSON nor a form, or it is compressed.",
    "422": "An item cannot be used; `item` says which one.",
    "429": "Too many requests; `Retry-After` says when to try again.",
    "500": "The gateway failed; its log has the reason under the request id.",
    "502": "A model server, or the server of a URL, failed or misbehaves.",
    "503": "No model server is available; `Retry-After` says when to try again.",
    "504": "The deadline passed.",
}


def document(config: GatewayConfig, models: Sequence[Endpoint], *, keys: bool) -> dict[str, Any]:
    """Return the document; `keys` says whether requests need an API key."""
    builder = _OperationBuilder(config, keys=keys)
    paths: dict[str, Any] = {
        "/healthz": {"get": builder.plain("Whether the process runs.", _HEALTH, public=True)},
        "/readyz": {"get": builder.plain("Whether the models are available.", _HEALTH, ("503",), public=True)},
        "/metrics": {"get": builder.text("Prometheus metrics.")},
        "/openapi.json": {"get": builder.plain("This document.", {"type": "object"})},
        "/v1/models": {"get": builder.plain("The models.", _listed(MODEL_SCHEMA))},
    }
    for endpoint in models:
        path = f"/v1/models/{endpoint.name}"
        paths[path] = {
            "get": builder.plain(f"The inputs and the live version of {endpoint.name}.", MODEL_SCHEMA),
            "post": builder.predict(endpoint, f"predict_{endpoint.name}"),
        }
        labels = list(dict.fromkeys((endpoint.config.label, *endpoint.config.labels)))
        if endpoint.config.label:
            paths[f"{path}/labels/{{label}}"] = {
                "parameters": [
                    {"name": "label", "in": "path", "required": True, "schema": {"type": "string", "enum": labels}}
                ],
                "post": builder.predict(endpoint, f"predict_{endpoint.name}_by_label"),
            }
    content: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Model gateway",
            "version": __version__,
            "description": "JSON in, JSON out, for models on TensorFlow Serving. Every error is problem+json.",
        },
        "paths": paths,
        "components": {"schemas": {"Problem": PROBLEM_SCHEMA}},
    }
    if keys:
        content["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        content["security"] = [{"bearer": []}, {"key": []}]
    return content


_HEALTH = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "status": {"type": "string"},
        "models": {"type": "integer"},
        "answering": {"type": "integer"},
    },
}
_REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "Letters, digits, '.', '_' and '-', at most 64; repeated in logs and in the reply.",
    "schema": {"type": "string"},
}
_TIMEOUT = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "description": "Timeout of the request in seconds, at most the gateway's own.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
_TEXT_HEADER = {"schema": {"type": "string"}}
_LABEL = "X-Model-Label"
_HEADERS = ("X-Model-Name", "X-Model-Version", _LABEL, "X-Request-Id", "Server-Timing")


class _OperationBuilder:
    def __init__(self, config: GatewayConfig, *, keys: bool) -> None:
        self._config = config
        self._keys = keys

    def plain(
        self, summary: str, schema: dict[str, Any], problems: Sequence[str] = (), *, public: bool = False
    ) -> dict[str, Any]:
        """Describe a GET with a JSON reply."""
        answer = {"description": summary, "content": {JSON: {"schema": schema}}}
        return self._operation(summary, {"200": answer}, problems, public=public)

    def text(self, summary: str) -> dict[str, Any]:
        """Describe a GET with a text reply."""
        answer = {"description": summary, "content": {"text/plain": {"schema": {"type": "string"}}}}
        return self._operation(summary, {"200": answer}, ())

    def predict(self, endpoint: Endpoint, name: str) -> dict[str, Any]:
        """Describe the POST of one model."""
        most = self._config.limits.items
        answer = {
            "description": "The results, in the order of the items.",
            "headers": {header: _TEXT_HEADER for header in _HEADERS if header != _LABEL or endpoint.config.label},
            "content": {JSON: {"schema": answer_schema(endpoint)}},
        }
        problems = [code for code in _PROBLEMS if code != "401" or self._keys]
        operation = self._operation(
            endpoint.config.description or f"Predict with {endpoint.name}.",
            {"200": answer},
            problems,
            parameters=[_TIMEOUT],
        )
        content = {JSON: {"schema": items_schema(endpoint, most)}}
        if endpoint.accepts != "json" or endpoint.processors.takes_blobs:
            content[FORM] = {"schema": form_schema(endpoint, most)}
        return {"operationId": name, **operation, "requestBody": {"required": True, "content": content}}

    def _operation(
        self,
        summary: str,
        answers: dict[str, Any],
        problems: Sequence[str],
        *,
        public: bool = False,
        parameters: Sequence[dict[str, Any]] = (),
    ) -> dict[str, Any]:
        # A GET may carry a body too, which can be late or too large.
        codes = {*problems, "408", "413", "500", *(["401"] if self._keys and not public else [])}
        operation: dict[str, Any] = {
            "summary": summary,
            "parameters": [_REQUEST_ID, *parameters],
            "responses": {**answers, **{code: _problem_response(code) for code in sorted(codes)}},
        }
        if public and self._keys:
            operation["security"] = []
        return operation


def _problem_response(code: str) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": _PROBLEMS[code],
        "content": {PROBLEM_CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if code in ("429", "503"):
        response["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return response


def _listed(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": ["models"], "properties": {"models": {"type": "array", "items": schema}}}
