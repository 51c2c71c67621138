"""Fields in protobuf's wire format, written by hand where a message object would copy the payload.

Protocol Buffers encoding: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

_BYTES = 2


def lengthed(field: int, payload: bytes) -> bytes:
    """Return a length-delimited field."""
    return lead(field, len(payload)) + payload


def lead(field: int, length: int) -> bytes:
    """Return what stands before the payload of a length-delimited field."""
    return varint(field << 3 | _BYTES) + varint(length)


def varint(number: int) -> bytes:
    """Return `number`, not negative, in protobuf's variable length."""
    if number < 0x80:
        return bytes((number,))
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
