"""GetModelStatusResponse, read even where a message in it is not UTF-8.

A failed load can put bytes of the file into its message (contract 20.7), and protobuf then refuses the whole reply. The
states in it are what a deploy waits for, so such a reply is read again with the broken text repaired.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from tfs_deploy.serving.codec import messages
from tfs_deploy.serving.replies import VersionState, VersionStatus

NOT_UTF8 = "(the server's message is not UTF-8; its unreadable bytes are replaced)"


def read_statuses(reply: bytes) -> tuple[VersionStatus, ...]:
    """Return the rows of a serialized GetModelStatusResponse; raise DecodeError where it is none."""
    try:
        rows = messages.GetModelStatusResponse.FromString(reply).model_version_status
    except DecodeError:
        rows = _bytes_class().FromString(reply).model_version_status
    return tuple(_row(row) for row in rows)


def _row(row: Any) -> VersionStatus:
    states = messages.enum_names("tensorflow.serving.ModelVersionStatus.State")
    codes = messages.enum_names("tensorflow.error.Code")
    return VersionStatus(
        version=row.version,
        state=VersionState(states.get(row.state, "UNKNOWN")),
        error_code=codes.get(row.status.error_code, str(row.status.error_code)),
        error_message=_text(row.status.error_message),
    )


def _text(message: str | bytes) -> str:
    if isinstance(message, str):
        return message
    try:
        return message.decode()
    except UnicodeDecodeError:
        return f"{message.decode(errors='replace')} {NOT_UTF8}"


@cache
def _bytes_class() -> Any:
    """Return GetModelStatusResponse with ``bytes`` for the text of a status, which is the same on the wire."""
    pool = descriptor_pool.DescriptorPool()
    original = messages.message_class(messages.FULL_NAMES["GetModelStatusResponse"]).DESCRIPTOR

    def add(file: Any) -> None:
        for dependency in file.dependencies:
            add(dependency)
        copy = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(copy)
        for field in (field for kind in copy.message_type if kind.name == "StatusProto" for field in kind.field):
            if field.type == field.TYPE_STRING:
                field.type = field.TYPE_BYTES
        pool.Add(copy)

    add(original.file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(original.full_name))
