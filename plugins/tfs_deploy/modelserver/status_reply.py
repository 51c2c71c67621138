"""Writes GetModelStatusResponse from the rows of a model, for gRPC and for REST.

For gRPC by hand: a load's message may quote bytes that are no UTF-8 (contract 20.7). TF Serving sends them as they are,
Python's protobuf refuses them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tfs_deploy.modelserver.lifecycle.monitor import Event
from tfs_deploy.modelserver.status import in_bytes
from tfs_deploy.serving.codec import messages
from tfs_deploy.serving.codec.wire_format import lengthed, varint

# get_model_status.proto, status.proto; enums and int64 are varints.
_ROW = 1
_VERSION, _STATE, _STATUS = 1, 2, 3
_CODE, _MESSAGE = 1, 2
_UINT64 = 2**64


def encode(events: Iterable[Event]) -> bytes:
    """Return the serialized response."""
    return b"".join(lengthed(_ROW, _row(event)) for event in events)


def as_message(events: Iterable[Event]) -> Any:
    """Return the response; bytes that are no UTF-8 are replaced."""
    response = messages.GetModelStatusResponse()
    for event in events:
        row = response.model_version_status.add(version=event.id.version, state=int(event.state))
        row.status.error_code = int(event.code)
        row.status.error_message = in_bytes(event.message).decode("utf-8", errors="replace")
    return response


def _row(event: Event) -> bytes:
    text = in_bytes(event.message)
    status = _number(_CODE, int(event.code)) + (lengthed(_MESSAGE, text) if text else b"")
    return _number(_VERSION, event.id.version) + _number(_STATE, int(event.state)) + lengthed(_STATUS, status)


def _number(field: int, value: int) -> bytes:
    """Return a varint field; nothing for 0, as proto3 does."""
    return varint(field << 3) + varint(value % _UINT64) if value else b""
