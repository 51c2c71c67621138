"""Error codes and the one exception that carries them, from TensorFlow's runtime to the wire."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

# `MS/grpc_status_util.cc`: longer error messages are truncated on the wire.
MAX_MESSAGE_BYTES = 1024
_TRUNCATED = b"...TRUNCATED"


class Code(IntEnum):
    """The canonical codes; the numbers are those of gRPC, ``google.rpc.Code`` and ``tensorflow.error.Code``."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class StatusError(Exception):
    """A call or a load ended with `code` and `message`."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


def invalid_argument(message: str) -> StatusError:
    """Return an INVALID_ARGUMENT."""
    return StatusError(Code.INVALID_ARGUMENT, message)


def not_found(message: str) -> StatusError:
    """Return a NOT_FOUND."""
    return StatusError(Code.NOT_FOUND, message)


def failed_precondition(message: str) -> StatusError:
    """Return a FAILED_PRECONDITION."""
    return StatusError(Code.FAILED_PRECONDITION, message)


def of_exception(error: BaseException) -> StatusError:
    """Return `error` as a status: the codes of TensorFlow and of the operating system are kept."""
    if isinstance(error, StatusError):
        return error
    if isinstance(error, OSError):
        return of_os_error(error)
    code: Any = getattr(error, "error_code", None)  # tf.errors.OpError
    if isinstance(code, int) and 0 < code <= max(Code):
        return StatusError(Code(code), runtime_message(str(getattr(error, "message", error))))
    if isinstance(error, MemoryError):
        return StatusError(Code.RESOURCE_EXHAUSTED, "Out of memory")
    return StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}")


def of_os_error(error: OSError) -> StatusError:
    """Return the status that TensorFlow's POSIX file system makes of an errno: ``<path>; <strerror>``."""
    if isinstance(error, FileNotFoundError):
        code = Code.NOT_FOUND
    elif isinstance(error, (NotADirectoryError, IsADirectoryError)):
        code = Code.FAILED_PRECONDITION
    elif isinstance(error, PermissionError):
        code = Code.PERMISSION_DENIED
    else:
        code = Code.UNKNOWN
    return StatusError(code, f"{error.filename}; {error.strerror}")


def truncated(message: str) -> bytes:
    """Return `message` as it is sent: truncated by bytes, so that the last character may be incomplete."""
    encoded = message_bytes(message)
    return encoded if len(encoded) <= MAX_MESSAGE_BYTES else encoded[:MAX_MESSAGE_BYTES] + _TRUNCATED


def message_bytes(message: str) -> bytes:
    """Return the bytes of a message, in which surrogate escapes represent bytes that are no UTF-8."""
    try:
        return message.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:  # another half of a surrogate pair
        return message.encode("utf-8", errors="replace")


# `TF_GRAPH_DEF_VERSION` of TensorFlow 2.20.0, and how far above it a producer may be without being named as the cause.
GRAPH_DEF_VERSION = 2288
_FORWARD_COMPATIBLE = 21
_BLAMED_PREFIX = "Converting GraphDef to Graph has failed with an error: "
# From `AddDefaultAttrsToGraphDef`, which runs before the conversion of the graph.
_BEFORE_CONVERSION = "Op type not registered "

# 2.21 knows one more image format.
_OTHER_TEXTS = (("One of JPEG, JPEG XL, PNG,", "One of JPEG, PNG,"),)


def runtime_message(text: str) -> str:
    """Return the message of an operation as the TensorFlow 2.20 inside TF Serving 2.20 writes it.

    The differences are from a comparison of some 400 requests and 50 damaged versions on both.
    """
    for current, served in _OTHER_TEXTS:
        text = text.replace(current, served)
    return text


def import_message(text: str, producer: int) -> str:
    """Return the message for an invalid GraphDef of version `producer`, which names a newer exporter as the cause."""
    newer = producer - GRAPH_DEF_VERSION > _FORWARD_COMPATIBLE
    if not newer or text.startswith((_BLAMED_PREFIX, _BEFORE_CONVERSION)):
        return text
    return (
        f"{_BLAMED_PREFIX}'{text}' The binary trying to import the GraphDef was built when GraphDef version was "
        f"{GRAPH_DEF_VERSION}. The GraphDef was produced by a binary built when GraphDef version was {producer}. The "
        "difference between these versions is larger than TensorFlow's forward compatibility guarantee, and might be "
        "the root cause for failing to import the GraphDef."
    )
