"""Unpacks the bodies of requests with ``Content-Encoding: gzip``, as TF Serving's HTTP library does."""

from __future__ import annotations

import zlib

# `ZLib::kMaxUncompressedBytes` of `UTIL/net_http/compression/gzip_zlib.h`.
MAX_BYTES = 100 * 2**20
_GZIP_ONLY = 16 + zlib.MAX_WBITS


def unpacked(body: bytes, encoding: str) -> bytes:
    """Return what a handler reads: nothing, where a body that is said to be gzip is none, or is too large unpacked."""
    if not body or "gzip" not in encoding:
        return body
    packed = zlib.decompressobj(_GZIP_ONLY)
    try:
        data = packed.decompress(body, MAX_BYTES)
    except zlib.error:
        return b""
    return data if packed.eof else b""
