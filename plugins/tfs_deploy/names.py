"""What may be a model name, a version number and a label: checked once, before anything is touched."""

from __future__ import annotations

import re

from tfs_deploy.errors import InvalidInput

# One path segment on every store and in every TF Serving URL; no leading dot (hidden, and `..`).
_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,126}")
# TF Serving's guide limits labels used over REST to word characters.
_LABEL = re.compile(r"\w{1,64}", re.ASCII)
# TF Serving parses version directory names as signed 64-bit integers (contract 3.1).
MAX_VERSION = 2**63 - 1
# The number of the placeholder of a model whose first version loads (contract 20.14): below every published one.
PLACEHOLDER = 0
# What TF Serving reads as a version: a whole number, perhaps with a sign, leading zeros and spaces around it
# (contract 3.1, 20.11).
_SERVED_NAME = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)[ \t\n\v\f\r]*", re.ASCII)


def check_model_name(name: str) -> str:
    """Return `name` if it can be one path segment; raise InvalidInput otherwise."""
    if not isinstance(name, str) or not _MODEL_NAME.fullmatch(name):
        raise InvalidInput(
            f"The model name {name!r} is not usable.",
            "Use letters, digits, '_', '-' and '.', at most 127, not starting with '.' or '-'.",
        )
    return name


def is_model_name(name: str) -> bool:
    """Tell whether `name` can be that of a model."""
    return _MODEL_NAME.fullmatch(name) is not None


def check_group_name(name: str) -> str:
    """Return `name` if it can be one segment of a state document's key; raise InvalidInput otherwise."""
    if not isinstance(name, str) or not _MODEL_NAME.fullmatch(name):
        raise InvalidInput(
            f"The group name {name!r} is not usable.",
            "Use letters, digits, '_', '-' and '.', at most 127, not starting with '.' or '-'.",
        )
    return name


def check_version(version: int | str) -> int:
    """Return `version` as a positive 64-bit int; raise InvalidInput otherwise."""
    try:
        number = int(version)
    except (TypeError, ValueError):
        number = 0
    if isinstance(version, bool) or not 0 < number <= MAX_VERSION:
        raise InvalidInput(f"The version {version!r} is not usable.", f"Use a whole number from 1 to {MAX_VERSION}.")
    return number


def check_listed_version(version: int) -> int:
    """Return `version` if a config may list it: one that `check_version` takes, or the placeholder."""
    return PLACEHOLDER if version == PLACEHOLDER and version is not False else check_version(version)


def check_above(number: int) -> int:
    """Return `number` if a version number can be above it; raise InvalidInput otherwise."""
    if isinstance(number, bool) or not isinstance(number, int) or number >= MAX_VERSION:
        raise InvalidInput(f"No version number is above {number!r}.", f"Use a whole number below {MAX_VERSION}.")
    return number


def check_label(label: str) -> str:
    """Return `label` if TF Serving accepts it over gRPC and REST; raise InvalidInput otherwise."""
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise InvalidInput(f"The label {label!r} is not usable.", "Use letters, digits and '_', at most 64 characters.")
    return label


def served_number(name: str) -> int | None:
    """Return the number under which a model server would serve a directory called `name`, or None."""
    if len(name) < 19 and name.isascii() and name.isdigit():
        return int(name)  # nearly every name, and there may be thousands
    match = _SERVED_NAME.fullmatch(name)
    number = int(match.group(1)) if match and len(name) < 100 else MAX_VERSION + 1
    return number if -MAX_VERSION <= number <= MAX_VERSION else None


def plural(count: int, noun: str) -> str:
    """Return ``1 replica`` or ``2 replicas``, for messages; `noun` takes an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
