"""Keys of state documents, `update` to change one, and the documents that every kind of store keeps."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, overload

from tfs_deploy.clock import Clock, Deadline, SystemClock
from tfs_deploy.errors import Contention, CorruptModel, InvalidInput
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.savedmodel.manifest import hex_of
from tfs_deploy.store.protocol import StateDocuments

# A file name has 255 bytes on common file systems, an object key 1024 with the store's prefix and room for both.
_MAX_SEGMENT_BYTES = 200
_MAX_KEY_BYTES = 800


def check_key(key: str) -> str:
    """Return `key` if it is a relative posix path whose segments do not start with a dot; else raise InvalidInput."""
    if not isinstance(key, str) or not key:
        raise InvalidInput(f"The document key {key!r} is empty.", "Use a relative path such as 'groups/default'.")
    for segment in key.split("/"):
        if not segment or segment.startswith("."):
            raise InvalidInput(
                f"The document key {key!r} has the segment {segment!r}.",
                "Use a relative path whose segments are neither empty nor start with '.'.",
            )
    return _check_text(key)


def check_prefix(prefix: str) -> str:
    """Return `prefix` if keys can start with it; raise InvalidInput otherwise."""
    if not isinstance(prefix, str):
        raise InvalidInput(f"The key prefix {prefix!r} is not a string.", "Use '' to list all keys.")
    for segment in prefix.split("/")[:-1]:
        if not segment or segment.startswith("."):
            raise InvalidInput(f"No document key starts with {prefix!r}.", "Use the beginning of a relative path.")
    return _check_text(prefix)


def check_folder(prefix: str) -> str:
    """Return `prefix` if it is that of a folder of keys; raise InvalidInput otherwise."""
    if prefix and not prefix.endswith("/"):
        raise InvalidInput(f"The key prefix {prefix!r} is that of no folder.", "Let it end with '/', or use ''.")
    return check_prefix(prefix)


def _check_text(key: str) -> str:
    for character in key:
        # Cc: control characters; Cs: text that is not UTF-8.
        if character == "\\" or unicodedata.category(character) in {"Cc", "Cs"}:
            raise InvalidInput(f"The document key {key!r} holds {character!r}.", "Use printable characters and '/'.")
    if len(key.encode()) > _MAX_KEY_BYTES or any(len(part.encode()) > _MAX_SEGMENT_BYTES for part in key.split("/")):
        raise InvalidInput(
            f"The document key {key[:80]!r}... is too long.",
            f"Use at most {_MAX_SEGMENT_BYTES} bytes per segment and {_MAX_KEY_BYTES} in all.",
        )
    return key


T = TypeVar("T")

# Fifty writers of one document at once are done within some seconds.
UPDATE_SECONDS = 60.0
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


@overload
def update(
    documents: StateDocuments,
    key: str,
    kind: type[T],
    change: Callable[[T], T],
    *,
    default: T,
    clock: Clock | None = ...,
    seconds: float = ...,
    replace_corrupt: bool = ...,
) -> T: ...


@overload
def update(
    documents: StateDocuments,
    key: str,
    kind: type[T],
    change: Callable[[T | None], T],
    *,
    clock: Clock | None = ...,
    seconds: float = ...,
    replace_corrupt: bool = ...,
) -> T: ...


def update(
    documents: StateDocuments,
    key: str,
    kind: type[T],
    change: Callable[..., T],
    *,
    default: T | None = None,
    clock: Clock | None = None,
    seconds: float = UPDATE_SECONDS,
    replace_corrupt: bool = False,
) -> T:
    """Write `change(current value)` under `key` and return it; if the value stays equal, write nothing.

    `kind` is the dataclass that the document holds as JSON. A missing document has the value `default`; with
    `replace_corrupt` so has one that is not a `kind`, instead of CorruptModel. `change` has no side effects: after
    another writer was faster it is called again with the new value, with growing, random pauses of `clock`. Raises
    Contention when that fails for `seconds`, and what `change` raises.
    """
    clock = clock or SystemClock()
    deadline, longest_pause = Deadline.after(seconds, clock), _FIRST_PAUSE_SECONDS
    while True:
        current, tag = _read(documents, key, kind, default, replace_corrupt=replace_corrupt)
        changed = change(current)
        if changed == current:
            return changed
        try:
            documents.write(key, to_json(changed), expected=tag)
        except Contention:
            if deadline.passed():
                raise
            # Random, so that writers that met once do not meet again.
            clock.sleep(random.uniform(0.0, longest_pause))  # noqa: S311 - a pause is no secret
            longest_pause = min(2.0 * longest_pause, _LONGEST_PAUSE_SECONDS)
        else:
            return changed


def _read(
    documents: StateDocuments, key: str, kind: type[T], default: T | None, *, replace_corrupt: bool
) -> tuple[T | None, str | None]:
    """Return the value of the document and its tag, None for a document that must not exist yet."""
    document = documents.read(key)
    if document is None:
        return default, None
    try:
        return from_json(kind, document.body), document.tag
    except CorruptModel:
        if not replace_corrupt:
            raise
        return default, document.tag


@dataclass(frozen=True, slots=True)
class Pointer:
    """The document ``fingerprints/<model>/<hex>``: the version that was last given to these bytes."""

    version: int


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """The document ``withdrawn/<model>/<version>``; ``at`` is ISO 8601 in UTC."""

    reason: str
    at: str


def read_pointer(documents: StateDocuments, model: str, fingerprint: str) -> int | None:
    """Return the version that was last given to these bytes, None if there is none."""
    document = documents.read(_pointer_key(model, fingerprint))
    return None if document is None else from_json(Pointer, document.body).version


def write_pointer(documents: StateDocuments, model: str, fingerprint: str, version: int) -> None:
    """Note that `version` has these bytes."""
    update(documents, _pointer_key(model, fingerprint), Pointer, lambda _: Pointer(version))


def write_withdrawal(documents: StateDocuments, model: str, version: int, reason: str, clock: Clock) -> None:
    """Note why `version` was withdrawn; the first reason stays."""
    withdrawal = Withdrawal(reason, clock.now().isoformat())
    key = f"withdrawn/{model}/{version}"
    update(documents, key, Withdrawal, lambda known: known or withdrawal, clock=clock, replace_corrupt=True)


def _pointer_key(model: str, fingerprint: str) -> str:
    return f"fingerprints/{model}/{hex_of(fingerprint)}"
