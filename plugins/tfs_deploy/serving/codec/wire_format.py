"""Fields in protobuf's wire format, written by hand where a message object would copy the payload.

Protocol Buffers encoding: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

_BYTES = 2


def length_delimited(field: int, payload: bytes) -> bytes:
    """Return a length-delimited field."""
    return field_header(field, len(payload)) + payload


def field_header(field: int, length: int) -> bytes:
    """Return the tag and the length of a length-delimited field, which precede its payload."""
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
