"""Decode and encode large JSON in chunks, for a thread beside the event loop.

One call of msgspec holds the interpreter lock until it returns. For a list of 8 million numbers that would delay every
other request; between two chunks the event loop runs.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

# Sizes that take some milliseconds.
LARGE_BYTES = 256 << 10
LARGE_ELEMENTS = 50_000
_PIECE_BYTES = 64 << 10
_PIECE = 10_000
# Levels of nesting that are split: each one is scanned once more, and clients may nest as deep as they like.
_LEVELS = 6
# A list with more elements has small ones, which take longer one by one.
_MAX_ELEMENTS = 20_000
_FIRST = re.compile(rb"\S")


def decode(body: bytes) -> Any:
    """Return the JSON value in `body`; raise what `msgspec.json.decode` raises."""
    first = _FIRST.search(body)
    if len(body) <= LARGE_BYTES or first is None or first[0] != b"{":
        return msgspec.json.decode(body)
    return _value(body, _LEVELS)


def encode(value: Any, plain: Callable[[Any], Any]) -> bytes:
    """Return `value` as JSON; `plain` converts other types to JSON types."""
    # Joined once, because copying many megabytes holds the interpreter lock too.
    return b"".join(_parts(value, plain))


def _parts(value: Any, plain: Callable[[Any], Any]) -> Iterator[bytes]:
    """Yield `value` as JSON, chunk by chunk."""
    if type(value) is dict and value and all(type(key) is str for key in value):
        before = b"{"
        for key, member in value.items():
            yield before + msgspec.json.encode(key) + b":"
            yield from _parts(member, plain)
            before = b","
        yield b"}"
    elif type(value) is list and value:
        yield from _parts_of_list(value, plain)
    else:
        yield msgspec.json.encode(value, enc_hook=plain)


def _parts_of_list(value: list[Any], plain: Callable[[Any], Any]) -> Iterator[bytes]:
    step = max(1, _PIECE // len(value[0] or "-")) if type(value[0]) in (list, dict) else _PIECE
    before = b"["
    for start in range(0, len(value), step):
        if step == 1:
            yield before
            yield from _parts(value[start], plain)
        else:
            yield before + msgspec.json.encode(value[start : start + step], enc_hook=plain)[1:-1]
        before = b","
    yield b"]"


def _value(text: bytes, levels: int) -> Any:
    """Return the JSON value in `text`, decoded in chunks down to `levels` of nesting."""
    if len(text) <= _PIECE_BYTES or not levels:
        return msgspec.json.decode(text)
    first = _FIRST.search(text)
    if first is not None and first[0] == b"{":
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return {name: _value(bytes(raw), levels - 1) for name, raw in members.items()}
    if first is not None and first[0] == b"[":
        return _list(text, first.end(), levels)
    return msgspec.json.decode(text)


def _list(text: bytes, start: int, levels: int) -> list[Any]:
    """Return the list in `text`, whose elements begin at `start`."""
    numbers = b'"' not in text and b"{" not in text
    if numbers and text.count(b"[") == 1:
        return _cut(text, start, b",")
    if numbers and text[start : start + 1] == b"[" and text[start + 1 : start + 2].strip() not in (b"", b"["):
        # Probably a list of flat lists. A chunk that is valid JSON has whole elements, so a wrong guess raises an error
        # and never gives another value.
        with contextlib.suppress(msgspec.DecodeError):
            return _cut(text, start, b"],")
    if numbers or text.count(b",") < _MAX_ELEMENTS:
        # msgspec validates Raw elements as JSON too.
        elements = msgspec.json.decode(text, type=list[msgspec.Raw])
        if len(elements) < _MAX_ELEMENTS:
            return [_value(bytes(element), levels - 1) for element in elements]
        del elements
    whole: list[Any] = msgspec.json.decode(text)
    return whole


def _cut(text: bytes, start: int, between: bytes) -> list[Any]:
    """Return the elements of the list `text`, which begin at `start`; chunks end at the separator `between`."""
    end = text.rindex(b"]")
    elements: list[Any] = []
    while start <= end:
        cut = text.find(between, start + _PIECE_BYTES, end)
        cut = end if cut < 0 else cut + len(between) - 1
        elements += msgspec.json.decode(b"[" + text[start:cut] + b"]")
        start = cut + 1
    return elements
