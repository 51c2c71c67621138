"""The interface of a processor (items to arrays, output arrays to JSON values), and the bytes of items."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from tfs_deploy.errors import InvalidInput, Permanent

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

# Prefix of auxiliary arrays: `preprocess` passes them to `postprocess`, one row per item, and not to the model.
AUX_PREFIX = "@"
_STANDARD = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class Blob:
    """The bytes of one item (an upload, a fetched URL or decoded base64), with the media type and file name."""

    data: bytes
    content_type: str = ""
    name: str = ""


class BadItem(InvalidInput):
    """One item of a request cannot be used; `reason` completes "Item `index` …"."""

    def __init__(self, index: int, reason: str, remedy: str = "Correct this item and send the request again.") -> None:
        super().__init__(f"Item {index} {reason}.", remedy)
        self.index = index
        self.reason = reason


class BadAnswer(Permanent):
    """The processor cannot read the output arrays: its options do not fit the model."""


@runtime_checkable
class Postprocessor(Protocol):
    """The second half of a processor: output arrays to JSON values."""

    def postprocess(self, outputs: Arrays) -> list[Any]:
        """Return one JSON-able value per row of `outputs` (and of the auxiliary arrays among them); raise BadAnswer."""


@runtime_checkable
class Processor(Postprocessor, Protocol):
    """Both directions. Further attributes are optional:

    ``takes_blobs`` (False): items ``{"url": …}`` and ``{"b64": …}`` are replaced by a `Blob`.
    ``batches`` (True): False where items give arrays of different shapes, so that each one is a Predict of its own.
    ``heavy`` (()): the methods that run in a process of the pool, unless the configuration says otherwise.
    ``reentrant`` (False): its methods may run in several threads; large items outside of the pool do.
    ``splits`` (False): the items of one request are independent, and may be split over several processes.
    ``with_signature(signature)``: returns the processor for a model that has this signature.
    ``requires_signature`` (False): it requires the signature, so it cannot run in the pool.
    ``paths`` (()): its options that are file names; relative ones start at the configuration's directory.
    """

    def preprocess(self, items: Sequence[Any]) -> Arrays:
        """Return arrays with one row per item along axis 0; raise BadItem for the first item that cannot be used."""


def split_aux(arrays: Arrays) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the arrays for the model, and the auxiliary arrays for `postprocess`."""
    inputs = {name: array for name, array in arrays.items() if not name.startswith(AUX_PREFIX)}
    return inputs, {name: array for name, array in arrays.items() if name.startswith(AUX_PREFIX)}


def output_named(outputs: Arrays, name: str) -> Array:
    """Return the output `name`, or the only one where `name` is empty; raise BadAnswer."""
    available = split_aux(outputs)[0]
    if not name and len(available) == 1:
        return next(iter(available.values()))
    if name in available:
        return available[name]
    problem = f"no output {name!r}" if name else f"{len(available)} outputs where one was expected"
    raise BadAnswer(
        f"The answer of the model has {problem}; there are: {', '.join(sorted(available)) or 'none'}.",
        "Set the postprocessor's option for the output to one of them.",
    )


def bytes_of(index: int, item: Any) -> bytes:
    """Return the bytes of `item`, a Blob or ``{"b64": …}``; raise BadItem."""
    if isinstance(item, Blob):
        return item.data
    if isinstance(item, dict) and item.keys() == {"b64"}:
        return decode_b64(index, item["b64"])
    if isinstance(item, dict) and "url" in item:
        raise BadItem(index, "is a URL that was not fetched", 'Send the bytes as {"b64": …} instead.')
    raise BadItem(
        index, f"is {json_kind(item)} where bytes were expected", 'Send {"b64": …}, {"url": …}, or upload a file.'
    )


def decode_b64(index: int, text: Any) -> bytes:
    """Return the bytes in base64 `text` (standard or URL-safe alphabet, with or without padding); raise BadItem."""
    if not isinstance(text, str):
        raise BadItem(index, f"has {json_kind(text)} as its base64")
    try:
        plain = text.encode("ascii").translate(_STANDARD, b"\r\n").rstrip(b"=")
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise BadItem(index, "has base64 that cannot be decoded", "Encode the bytes as in RFC 4648.") from error


def json_kind(value: Any) -> str:
    """Return the kind of the JSON value with its article, e.g. ``a string``; the value itself may be private."""
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
    return next((text for kind, text in kinds if isinstance(value, kind)), f"a {type(value).__name__}")
