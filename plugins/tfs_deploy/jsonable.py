"""Frozen dataclasses to JSON and back: the format of state documents, XComs, triggers and `--json` answers."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from tfs_deploy.errors import CorruptModel

T = TypeVar("T")


def to_builtins(value: object) -> Any:
    """Return `value` as dicts, lists, strings and numbers only."""
    # By way of JSON: `msgspec.to_builtins` leaves tuples as they are, and an XCom or a trigger takes lists only.
    return msgspec.json.decode(msgspec.json.encode(value))


def to_json(value: object) -> bytes:
    """Return `value` as indented JSON with a stable key order, so that equal values give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=1) + b"\n"


def from_json(kind: type[T], text: bytes | str) -> T:
    """Parse JSON `text` as a `kind`; raise CorruptModel where it does not fit."""
    try:
        return msgspec.json.decode(text, type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptModel(
            f"A JSON document is not a {kind.__name__}: {error}.",
            "Restore it from a backup, or remove it if it was not written by tfs_deploy.",
        ) from error


def from_builtins(kind: type[T], value: object) -> T:
    """Return what `to_builtins` made of a `kind` as one again; raise CorruptModel where it does not fit."""
    return from_json(kind, msgspec.json.encode(value).decode())
