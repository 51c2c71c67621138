"""Status and metadata over REST: protobuf messages as JSON, in the form of TF Serving's printer.

Every field without presence is written, in the order of the field numbers, under its name in the .proto file; 64-bit
integers are strings. Indentation is one space.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from tfs_deploy.modelserver.rest.json_writer import encoded
from tfs_deploy.serving.codec import messages

_WIDE = frozenset((FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64))
# Protobuf's printer escapes these besides what every JSON writer does.
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
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


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
