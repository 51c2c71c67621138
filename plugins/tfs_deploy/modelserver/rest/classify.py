"""Classify and Regress over REST: tf.Examples as JSON objects in, ``results`` out (contract 8)."""

from __future__ import annotations

from typing import Any

from tfs_deploy.modelserver.inference.classify_regress import Classifications, Regressions
from tfs_deploy.modelserver.rest.json_writer import decimal, decimals, decoded, encoded, is_double, quoted
from tfs_deploy.modelserver.rest.predict import format_error, proto_text
from tfs_deploy.modelserver.rest.tensors import base64_bytes, is_base64, kind_of, lossless
from tfs_deploy.modelserver.status import invalid_argument

_CONTEXT, _EXAMPLES = "context", "examples"
_INT64_MAX = 2**63 - 1
_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def fill_input(target: Any, document: dict[str, Any]) -> None:
    """Put the examples of `document` into an ``Input`` message."""
    holder = target.example_list
    if _CONTEXT in document:
        holder = target.example_list_with_context
        holder.context.SetInParent()
        _fill_example(holder.context, document[_CONTEXT])
    if _EXAMPLES not in document:
        raise format_error(document, f"When method is classify, key '{_EXAMPLES}' is expected and was not found")
    examples = document[_EXAMPLES]
    if not isinstance(examples, list):
        raise format_error(document, f"Expecting '{_EXAMPLES}' value to be an list/array")
    if not examples:
        raise format_error(document, f"'{_EXAMPLES}' value is an empty array")
    for example in examples:
        _fill_example(holder.examples.add(), example)


def classify_body(result: Classifications) -> bytes:
    """Return the answer: for each example its [label, score] pairs."""
    rows = result.rows()
    if not rows:
        raise invalid_argument("Cannot convert empty ClassificationResults to JSON")
    shown = ", ".join(
        f"[{', '.join(f'[{quoted(decoded(label))}, {decimal(score)}]' for label, score in row)}]" for row in rows
    )
    return encoded(f'{{\n    "results": [{shown}\n    ]\n}}')


def regress_body(result: Regressions) -> bytes:
    """Return the answer: one number for each example."""
    if not len(result.values):
        raise invalid_argument("Cannot convert empty RegressionResults to JSON")
    return encoded(f'{{\n    "results": [{", ".join(decimals(result.values))}]\n}}')


def _fill_example(example: Any, value: Any) -> None:
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {kind_of(value)}")
    for name, content in value.items():
        feature = example.features.feature[proto_text(name)]
        for item in content if isinstance(content, list) else [content]:
            _add(feature, name, item)


def _add(feature: Any, name: str, item: Any) -> None:
    """Add one value; the first one determines the kind of the feature."""
    if item is None or isinstance(item, list) or (isinstance(item, dict) and not is_base64(item)):
        raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {kind_of(item)}")
    kind = _kind(item)
    feature_kind = feature.WhichOneof("kind")
    if feature_kind not in (None, kind):
        raise invalid_argument(f"Unexpected element type in feature: {name} expecting type: {_KINDS[feature_kind]}")
    getattr(feature, kind).value.append(_converted(name, item))


def _kind(item: Any) -> str:
    if isinstance(item, (str, dict)):
        return "bytes_list"
    return "float_list" if is_double(item) else "int64_list"


def _converted(name: str, item: Any) -> Any:
    if isinstance(item, dict):
        return base64_bytes(item)
    if isinstance(item, str):
        return encoded(item)
    if is_double(item):
        return lossless(item, "DT_FLOAT")
    if item > _INT64_MAX:
        raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
    return int(item)
