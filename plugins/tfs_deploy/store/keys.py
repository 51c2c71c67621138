"""What may be the key of a state document: the same on every store, checked before anything is touched."""

from __future__ import annotations

import unicodedata

from tfs_deploy.errors import InvalidInput

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
