"""Read the bytes of an item, however they came: an upload, a fetched URL, or base64 inside JSON."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from tfs_deploy.gateway.processors.protocol import BadItem, Blob


def bytes_of(index: int, item: Any) -> bytes:
    """Return the bytes that `item`, a Blob or ``{"b64": …}``, holds; raise BadItem."""
    if isinstance(item, Blob):
        return item.data
    if isinstance(item, dict) and item.keys() == {"b64"}:
        return decode_b64(index, item["b64"])
    if isinstance(item, dict) and "url" in item:
        raise BadItem(index, "is a URL, and nothing was fetched for it", 'Send the bytes as {"b64": …} instead.')
    raise BadItem(
        index, f"is {a_json(item)} where bytes were expected", 'Send {"b64": …}, {"url": …}, or upload a file.'
    )


def decode_b64(index: int, text: Any) -> bytes:
    """Return the bytes in base64 `text` (standard or URL-safe alphabet, with or without padding); raise BadItem."""
    if not isinstance(text, str):
        raise BadItem(index, f"has {a_json(text)} as its base64")
    try:
        plain = text.encode("ascii").translate(_STANDARD, b"\r\n").rstrip(b"=")
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise BadItem(index, "has base64 that cannot be decoded", "Encode the bytes as in RFC 4648.") from error


def a_json(value: Any) -> str:
    """Return what kind of JSON value `value` is, with its article; never the value itself, which may be private."""
    if value is None:
        return "null"
    # bool before int: True is an int to Python.
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "a boolean"),
        (str, "a string"),
        (int, "a whole number"),
        (float, "a number with a fraction"),
        (list, "a list"),
        (dict, "an object"),
        (Blob, "a file"),
    )
    return next((said for kind, said in kinds if isinstance(value, kind)), f"a {type(value).__name__}")


_STANDARD = bytes.maketrans(b"-_", b"+/")
