"""Writes JSON as TF Serving's REST API does: its number format, its line breaks, its escapes.

A value is one of `json_reader`: dict, list, str, int, float, bool or None. In str, surrogate escapes stand for bytes
that are not UTF-8 and are written as those bytes, so an answer may be invalid JSON, as in TF Serving.

Status and metadata are protobuf messages in the form of TF Serving's printer: every field without presence is written,
in the order of the field numbers, under its name in the .proto file; 64-bit integers are strings.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor

from tfs_deploy.modelserver.graph.servable import Array
from tfs_deploy.serving.codec import messages

INDENT = "    "
# The largest float32 as a Python float; a greater number is a double.
FLOAT_MAX = float(np.finfo(np.float32).max)
INT64_MIN, UINT64_MAX = -(2**63), 2**64 - 1

_ESCAPES = {chr(code): f"\\u{code:04X}" for code in range(32)} | {
    '"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t",
}  # fmt: skip
_TABLE = str.maketrans(_ESCAPES)


class _Unwritable(Exception):
    """NaN or an infinity inside a list or object, at which TF Serving truncates the text."""


def quoted(text: str) -> str:
    """Return `text` as a JSON string."""
    return f'"{text.translate(_TABLE)}"'


def encoded(text: str) -> bytes:
    """Return the bytes of an answer."""
    return text.encode("utf-8", errors="surrogateescape")


def decoded(data: bytes) -> str:
    """Return any bytes as text that `encoded` converts to the same bytes."""
    return data.decode("utf-8", errors="surrogateescape")


def error_body(message: str) -> bytes:
    """Return the body of a failed call."""
    return encoded(f'{{\n{INDENT}"error": {quoted(message)}\n}}')


def decimals(values: Array) -> list[str]:
    """Return a flat float32 or float64 array as numbers.

    Six digits if they parse to the same value, else the digits that represent every value of the dtype (9 or 17);
    numbers without point and exponent get ``.0``, so that a list of floats differs from one of integers.
    """
    flat: list[float] = values.tolist()
    texts = [f"{value:g}" for value in flat]
    if not texts:
        return texts
    with np.errstate(over="ignore"):
        same = np.array([float(text) for text in texts]).astype(values.dtype) == values
    if not same.all():
        digits = 9 if values.dtype == np.float32 else 17
        for index in np.flatnonzero(~same).tolist():
            texts[index] = f"{flat[index]:.{digits}g}"
    return [text if "." in text or "e" in text else _whole(text) for text in texts]


def decimal(value: float, kind: type[np.floating[Any]] = np.float32) -> str:
    """Return one number in the same form."""
    with np.errstate(over="ignore"):
        return decimals(np.array([value]).astype(kind))[0]


def block(items: Iterable[str], level: int, brackets: str) -> str:
    """Return the items, each on its own line, between `brackets` at the indentation `level`."""
    inner = f"\n{INDENT * (level + 1)}"
    text = f",{inner}".join(items)
    return f"{brackets[0]}{inner}{text}\n{INDENT * level}{brackets[1]}" if text else brackets


def error_text(value: Any) -> str:
    """Return a value as TF Serving quotes it in error messages."""
    if is_double(value):
        value = float(value)
        return decimal(value, np.float32 if abs(value) <= FLOAT_MAX else np.float64)
    parts: list[str] = []
    with suppress(_Unwritable):
        _write(value, 0, parts)
    return "".join(parts)


def is_double(value: Any) -> bool:
    """Return whether a number is a double: with fraction or exponent, or an integer beyond 64 bits."""
    return type(value) is float or (type(value) is int and not INT64_MIN <= value <= UINT64_MAX)


def _whole(text: str) -> str:
    if text[-1].isdigit():
        return text + ".0"
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)


def _write(value: Any, level: int, parts: list[str]) -> None:
    if isinstance(value, dict):
        _write_members(value, level, parts)
    elif isinstance(value, list):
        _write_elements(value, level, parts)
    elif isinstance(value, str):
        parts.append(quoted(value))
    elif is_double(value):
        parts.append(_double(float(value)))
    else:
        parts.append({None: "null", True: "true", False: "false"}[value] if type(value) is not int else str(value))


def _write_members(value: dict[str, Any], level: int, parts: list[str]) -> None:
    parts.append("{")
    for index, (name, member) in enumerate(value.items()):
        parts.append(f"{',' if index else ''}\n{INDENT * (level + 1)}{quoted(name)}: ")
        _write(member, level + 1, parts)
    parts.append(f"\n{INDENT * level}}}" if value else "}")


def _write_elements(value: list[Any], level: int, parts: list[str]) -> None:
    parts.append("[")
    for index, element in enumerate(value):
        parts.append(f"{',' if index else ''}\n{INDENT * (level + 1)}")
        _write(element, level + 1, parts)
    parts.append(f"\n{INDENT * level}]" if value else "]")


def _double(value: float) -> str:
    """Return a double inside a larger value: shortest digits, without exponent up to 21 of them."""
    if not math.isfinite(value):
        raise _Unwritable
    text = repr(value)
    if "e" not in text:
        return text
    digits, _, exponent = text.partition("e")
    power, significant = int(exponent), digits.replace(".", "")
    if 0 <= power < 21:
        return significant.ljust(power + 1 + (value < 0), "0") + ".0"
    if -7 < power < 0:
        return f"{value:.{-power + len(significant.lstrip('-')) - 1}f}"
    return f"{digits}e{power}"


_WIDE = frozenset((FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64))
# Protobuf's printer escapes these too.
_ESCAPED = re.compile("[<>\x7f-\x9f\u2028\u2029\ufeff]")


def status_body(response: Any) -> bytes:
    """Return the body for a GetModelStatusResponse."""
    return encoded(_printed(response) + "\n")


def metadata_body(response: Any) -> bytes:
    """Return the body for a GetModelMetadataResponse."""
    signatures = messages.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    return encoded(
        f'{{\n"model_spec":{_printed(response.model_spec)}\n,\n'
        f'"metadata": {{"signature_def": {_printed(signatures)}\n}}\n}}\n'
    )


def _printed(message: Any) -> str:
    text = json.dumps(as_json(message), indent=1, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def as_json(message: Any) -> Any:
    """Return a message as dicts, lists and plain values."""
    if message.DESCRIPTOR.full_name == "google.protobuf.Int64Value":
        return str(message.value)
    members = {}
    for field in sorted(message.DESCRIPTOR.fields, key=lambda field: field.number):
        if not field.has_presence or message.HasField(field.name):
            members[field.name] = _member(field, getattr(message, field.name))
    return members


def _member(field: Any, value: Any) -> Any:
    entry = field.message_type if field.message_type is not None and field.message_type.GetOptions().map_entry else None
    if entry is not None:
        inner = entry.fields_by_name["value"]
        return {str(key): _single(inner, value[key]) for key in sorted(value)}
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return as_json(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, int) and not isinstance(value, bool) and field.cpp_type in _WIDE:
        return str(value)
    return value
