"""What a processor is: items in, one batch of arrays out; the model's arrays in, one JSON value per item out."""

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

# An array under such a name is not for the model: `preprocess` leaves it for `postprocess`, one row per item.
AUX_PREFIX = "@"


@dataclass(frozen=True, slots=True)
class Blob:
    """The bytes of one item: an upload, a fetched URL or decoded base64, with what the sender says they are."""

    data: bytes
    content_type: str = ""
    name: str = ""


class BadItem(InvalidInput):
    """One item of a request is not usable; `index` is its place among the items, `reason` ends a sentence."""

    def __init__(self, index: int, reason: str, remedy: str = "Correct this item and send the request again.") -> None:
        super().__init__(f"Item {index} {reason}.", remedy)
        self.index = index
        self.reason = reason


class BadAnswer(Permanent):
    """The model answered with arrays that the processor cannot read: its options and the model do not fit."""


@runtime_checkable
class Postprocessor(Protocol):
    """Half a processor, for models whose input another one makes."""

    def postprocess(self, outputs: Arrays) -> list[Any]:
        """Return one JSON-able value per row of `outputs` (and of the notes among them); raise BadAnswer."""


@runtime_checkable
class Processor(Postprocessor, Protocol):
    """Both ways. More attributes are read where a class has them:

    ``takes_blobs`` (False): items ``{"url": …}`` and ``{"b64": …}`` are to arrive as a `Blob`.
    ``batches`` (True): False where items give arrays of different shapes, so that each is one Predict of its own.
    ``heavy`` (()): those of its methods that run in a process of the pool, unless the configuration says otherwise.
    ``reentrant`` (False): its methods may run in several threads, which they do for large items outside of the pool.
    ``splits`` (False): the rows of one request may be made in several processes; none depends on the others.
    ``with_signature(signature)``: returns the processor for a model that has this signature.
    ``needs_signature`` (False): it cannot work without, so it cannot run in the pool.
    ``paths`` (()): its options that name files; relative ones are made to count from the configuration's directory.
    """

    def preprocess(self, items: Sequence[Any]) -> Arrays:
        """Return arrays with one row per item along axis 0; raise BadItem for the first item that is not usable."""


def split_aux(arrays: Arrays) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return what goes to the model, and what `preprocess` left for `postprocess`."""
    inputs = {name: array for name, array in arrays.items() if not name.startswith(AUX_PREFIX)}
    return inputs, {name: array for name, array in arrays.items() if name.startswith(AUX_PREFIX)}


def output_named(outputs: Arrays, name: str) -> Array:
    """Return the output `name`, or the only one where `name` is empty; raise BadAnswer."""
    given = split_aux(outputs)[0]
    if not name and len(given) == 1:
        return next(iter(given.values()))
    if name in given:
        return given[name]
    wanted = f"no output {name!r}" if name else f"{len(given)} outputs where one was expected"
    raise BadAnswer(
        f"The answer of the model has {wanted}; there are: {', '.join(sorted(given)) or 'none'}.",
        "Set the postprocessor's option for the output to one of them.",
    )


def bytes_of(index: int, item: Any) -> bytes:
    """Return the bytes that `item`, a Blob or ``{"b64": …}``, holds; raise BadItem."""
    if isinstance(item, Blob):
        return item.data
    if isinstance(item, dict) and item.keys() == {"b64"}:
        return decode_b64(index, item["b64"])
    if isinstance(item, dict) and "url" in item:
        raise BadItem(index, "is a URL, and nothing was fetched for it", 'Send the bytes as {"b64": …} instead.')
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
