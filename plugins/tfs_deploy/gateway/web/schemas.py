"""JSON schemas of what goes in and out of a model's endpoint, by its processors."""

from __future__ import annotations

from typing import Any

from tfs_deploy.gateway.web.endpoint import Served

_NULLABLE_INTEGER = {"type": ["integer", "null"]}
_NULLABLE_STRING = {"type": ["string", "null"]}
_NULLABLE_NUMBER = {"type": ["number", "string", "null"]}
# NaN and the infinities are strings: JSON has no numbers for them.
_NUMBER = {"type": ["number", "string"]}

PROBLEM = {
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
MODEL = {
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


def items(served: Served, most: int) -> dict[str, Any]:
    """Return the schema of a JSON body."""
    # No schema at all would mean the same; an empty one says that anything goes.
    item: dict[str, Any] = _ITEMS.get(served.accepts, {})
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


def form(served: Served, most: int) -> dict[str, Any]:
    """Return the schema of a form: one field, with files or texts."""
    part = {"type": "string"} if served.accepts == "text" else {"type": "string", "format": "binary"}
    return {
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {"items": {"type": "array", "minItems": 1, "maxItems": most, "items": part}, "item": part},
    }


def answer(served: Served) -> dict[str, Any]:
    """Return the schema of an answer."""
    result = _RESULTS.get(served.answers.name, {})
    common = {"model": {"type": "string"}, "version": {"type": "integer"}}
    if served.config.label:
        common["label"] = {"type": "string"}
    return {
        "type": "object",
        "required": list(common),
        "properties": {**common, "results": {"type": "array", "items": result}, "result": result},
        "anyOf": [{"required": ["results"]}, {"required": ["result"]}],
    }
