"""Plain tensors: nested JSON lists to arrays of a declared dtype, and back; no value is cast, rounded or padded.

Floats that JSON cannot write are the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, as in protobuf's JSON;
strings that are not UTF-8 are ``{"b64": …}``, as in TF Serving's REST API.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.processors.protocol import (
    Array,
    Arrays,
    BadAnswer,
    BadItem,
    Blob,
    decode_b64,
    json_kind,
    output_named,
    split_aux,
)
from tfs_deploy.serving.codec.tensors import NUMPY_BY_NAME
from tfs_deploy.serving.signature import Signature, covers, shape_text

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# Elements per call: a call holds the interpreter lock, and between two calls of a thread the event loop runs.
_BLOCK = 10_000
_MAX_RANK = 32  # as in serving.tensors: numpy 1.26's limit
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
_DTYPES = {
    spelling: dtype
    for name, dtype in NUMPY_BY_NAME.items()
    if dtype.kind != "c"
    for spelling in (name, name.removeprefix("DT_").lower(), "string" if dtype.kind == "O" else dtype.name)
}


def parse_dtype(name: str) -> np.dtype[Any]:
    """Return the dtype called `name` in a configuration (``float32``, ``string``, ``DT_INT64``); raise InvalidInput."""
    if name not in _DTYPES:
        known = sorted({"string" if dtype.kind == "O" else dtype.name for dtype in _DTYPES.values()})
        raise InvalidInput(f"There is no dtype {name!r} for JSON values.", f"Use one of: {', '.join(known)}.")
    return _DTYPES[name]


def to_array(index: int, value: Any, dtype: np.dtype[Any], name: str = "") -> Array:
    """Return the JSON `value` of item `index` as an array of `dtype`; raise BadItem where a value would change."""
    inside = f" in {name!r}" if name else ""
    shape, flat, types = _flatten(index, value, inside)
    return _flat_array(index, flat, types, dtype, inside).reshape(shape)


def to_json(array: Array, *, always_b64: bool = False) -> Any:
    """Return `array` as nested lists of JSON values, a scalar as one value."""
    if array.dtype.kind in "SUOT":
        return _mapped(array, lambda value: _text_or_b64(value, always_b64))
    if array.dtype.kind in "biu":
        return _lists(array)
    # bfloat16 (kind "V") and float16 widen without loss.
    wide = array.astype(np.float64)
    if np.isfinite(wide).all():
        return _lists(wide)
    return _mapped(wide, json_float)


def json_float(value: float) -> float | str:
    """Return `value`, or its string in JSON where it is not finite."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def short_float(value: float) -> float | str:
    """Return `value` with the fewest digits that identify its float32: 0.1, not 0.10000000149011612."""
    if abs(value) > _LARGEST_FLOAT32:
        return json_float(value)
    return json_float(float(str(np.float32(value))))


def _flatten(index: int, value: Any, inside: str) -> tuple[tuple[int, ...], list[Any], set[type]]:
    """Return the shape of nested lists, their elements in row-major order, and the types of these."""
    shape: list[int] = []
    flat = [value]
    # By sets of types and lengths, not by element: a picture as lists has half a million of them.
    while (types := _types(flat)) == {list}:
        lengths = {length for block in _blocks(flat) for length in set(map(len, block))}
        if len(lengths) > 1:
            raise BadItem(index, f"has lists of different lengths{inside}", "Give lists nested to one regular shape.")
        if len(shape) == _MAX_RANK:
            raise BadItem(index, f"has more than {_MAX_RANK} dimensions{inside}")
        shape.append(lengths.pop())
        flat = _joined(flat, shape[-1])
    if list in types:
        raise BadItem(index, f"mixes lists and values{inside}", "Give lists nested to one regular shape.")
    return tuple(shape), flat, types


def _blocks(flat: list[Any], size: int = _BLOCK) -> Iterator[list[Any]]:
    return (flat[start : start + size] for start in range(0, len(flat), size))


def _types(flat: list[Any]) -> set[type]:
    return {kind for block in _blocks(flat) for kind in set(map(type, block))}


def _joined(lists: list[list[Any]], length: int) -> list[Any]:
    """Return the elements of `lists`, each of length `length`."""
    if len(lists) == 1:
        return lists[0]
    joined: list[Any] = []
    for block in _blocks(lists, max(1, _BLOCK // max(1, length))):
        joined.extend(chain.from_iterable(block))
    return joined


def _filled(flat: list[Any], dtype: np.dtype[Any]) -> Array:
    """Return `flat` as an array; raise OverflowError where a number is too large."""
    array = np.empty(len(flat), dtype=dtype)
    for start in range(0, len(flat), _BLOCK):
        array[start : start + _BLOCK] = flat[start : start + _BLOCK]
    return array


def _flat_array(index: int, flat: list[Any], types: set[type], dtype: np.dtype[Any], inside: str) -> Array:
    if dtype.kind == "O":
        array = np.empty(len(flat), dtype=object)
        array[:] = [_string(index, element, inside) for element in flat]
        return array
    if dtype.kind == "b":
        _check_types(index, flat, types, {bool}, dtype, inside)
        return _filled(flat, dtype)
    if dtype.kind in "iu":
        _check_types(index, flat, types, {int}, dtype, inside)
        return _integers(index, flat, dtype, inside)
    if str in types:
        # Other strings stay strings, and are refused below.
        flat = [_NOT_FINITE.get(element, element) if type(element) is str else element for element in flat]
        types = _types(flat)
    _check_types(index, flat, types, {int, float}, dtype, inside)
    return _floats(index, flat, dtype, inside)


def _check_types(
    index: int, flat: Sequence[Any], types: set[type], kinds: set[type], dtype: np.dtype[Any], inside: str
) -> None:
    if types <= kinds:
        return
    wrong = next(element for element in flat if type(element) not in kinds)
    raise BadItem(index, f"has {json_kind(wrong)}{inside} where {dtype.name} is expected")


def _integers(index: int, flat: list[Any], dtype: np.dtype[Any], inside: str) -> Array:
    limits = np.iinfo(dtype)
    if any(min(block) < limits.min or max(block) > limits.max for block in _blocks(flat)):
        raise BadItem(
            index, f"has a number{inside} outside of {dtype.name}, which goes from {limits.min} to {limits.max}"
        )
    return _filled(flat, dtype)


def _floats(index: int, flat: list[Any], dtype: np.dtype[Any], inside: str) -> Array:
    try:
        wide = _filled(flat, np.dtype(np.float64))
    except OverflowError as error:
        raise BadItem(index, f"has a number{inside} that is too large for {dtype.name}") from error
    with np.errstate(over="ignore"):
        array = wide.astype(dtype)
    if not np.array_equal(np.isinf(array), np.isinf(wide)):
        raise BadItem(index, f"has a number{inside} that is too large for {dtype.name}")
    return array


def _string(index: int, element: Any, inside: str) -> bytes:
    if isinstance(element, str):
        try:
            return element.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadItem(index, f"has half a surrogate pair{inside}, which is not text") from error
    if isinstance(element, dict) and element.keys() == {"b64"}:
        return decode_b64(index, element["b64"])
    if isinstance(element, Blob):
        return element.data
    raise BadItem(index, f"has {json_kind(element)}{inside} where a string is expected")


def _lists(array: Array) -> Any:
    """Return `array` as nested lists, converted in blocks so that no call holds the interpreter lock for long."""
    if array.size <= _BLOCK:
        return array.tolist()
    if array.ndim > 1:
        return [_lists(part) for part in array]
    numbers: list[Any] = []
    for start in range(0, len(array), _BLOCK):
        numbers += array[start : start + _BLOCK].tolist()
    return numbers


def _mapped(array: Array, change: Callable[[Any], Any]) -> Any:
    """Return `array` as nested lists with `change` applied to every element."""

    def changed(value: Any, depth: int) -> Any:
        return [changed(part, depth - 1) for part in value] if depth else change(value)

    return changed(array.tolist(), array.ndim)


def _text_or_b64(value: Any, always_b64: bool) -> Any:
    data = value.encode("utf-8") if isinstance(value, str) else bytes(value)
    if not always_b64:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(data).decode("ascii")}


class TensorInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input: its dtype, and the shape of one item (null = any size), without the batch dimension."""

    dtype: str
    shape: tuple[int | None, ...] | None = None


class TensorOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`inputs` by name, or those of the model's signature; `outputs` are those in the result, all where empty; `blobs`
    means that strings may be uploads and URLs.
    """

    inputs: dict[str, TensorInput] = {}
    outputs: tuple[str, ...] = ()
    batches: bool = True
    blobs: bool = False


class TensorProcessor:
    """One item is a value (of a single input) or an object with one value per input; results are alike."""

    Options = TensorOptions
    reentrant = True

    def __init__(self, options: TensorOptions) -> None:
        self._options = options
        self.requires_signature = not options.inputs
        self.batches = options.batches
        self.takes_blobs = options.blobs
        self._dtypes = {name: parse_dtype(given.dtype) for name, given in options.inputs.items()}
        self._shapes = {name: given.shape for name, given in options.inputs.items()}

    def with_signature(self, signature: Signature) -> TensorProcessor:
        """Return the processor for the inputs of `signature`; this one where its options name the inputs."""
        if self._options.inputs:
            return self
        inputs = {
            name: TensorInput(spec.dtype, None if spec.shape is None else spec.shape[1:])
            for name, spec in signature.inputs.items()
            if name not in signature.optional
        }
        return TensorProcessor(msgspec.structs.replace(self._options, inputs=inputs))

    def preprocess(self, items: Sequence[Any]) -> dict[str, Array]:
        """Return one array per input, with the items stacked along axis 0."""
        if not self._dtypes:
            raise InvalidInput("The inputs of the model are unknown.", "Set the processor's option inputs.")
        rows = [self._row(index, item) for index, item in enumerate(items)]
        return {name: _stacked(name, [row[name] for row in rows]) for name in self._dtypes}

    def postprocess(self, outputs: Arrays) -> list[Any]:
        """Return each row as nested lists: the value of a single output, or an object by output name."""
        return rows_as_json(outputs, self._options.outputs)

    def _row(self, index: int, item: Any) -> dict[str, Array]:
        values = self._by_name(index, item)
        row = {name: to_array(index, values[name], dtype, name) for name, dtype in self._dtypes.items()}
        for name, array in row.items():
            expected = self._shapes[name]
            if not covers(expected, array.shape):
                raise BadItem(
                    index, f"has the shape {list(array.shape)} in {name!r} where {shape_text(expected)} is expected"
                )
        return row

    def _by_name(self, index: int, item: Any) -> Mapping[str, Any]:
        if isinstance(item, dict) and item.keys() == self._dtypes.keys():
            return item
        if len(self._dtypes) == 1 and (not isinstance(item, dict) or item.keys() == {"b64"}):
            return {next(iter(self._dtypes)): item}
        names = ", ".join(map(repr, self._dtypes))
        if isinstance(item, Blob):
            raise BadItem(index, f"is a file where an object with {names} is expected")
        raise BadItem(index, f"is not an object with exactly {names}")


def rows_as_json(outputs: Arrays, names: Sequence[str] = ()) -> list[Any]:
    """Return the rows of `outputs` (only `names` where given) as JSON values; raise BadAnswer."""
    selected = {name: output_named(outputs, name) for name in names} if names else split_aux(outputs)[0]
    counts = {array.shape[0] if array.ndim else -1 for array in selected.values()}
    if len(counts) != 1 or -1 in counts:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in sorted(selected.items()))
        raise BadAnswer(
            f"The outputs of the model do not have one row per item: {shapes or 'there are none'}.",
            "Name outputs with one row per item in the processor's option 'outputs'.",
        )
    # Outputs with this suffix are always bytes, as in TF Serving's REST API.
    columns = {name: to_json(array, always_b64=name.endswith("_bytes")) for name, array in selected.items()}
    if len(columns) == 1:
        return list(next(iter(columns.values())))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _stacked(name: str, rows: Sequence[Array]) -> Array:
    if not rows:
        raise InvalidInput("There are no items.", "Send at least one.")
    for index, row in enumerate(rows):
        if row.shape != rows[0].shape:
            shapes = f"{list(row.shape)} in {name!r}, and item 0 has {list(rows[0].shape)}"
            raise BadItem(index, f"has the shape {shapes}", "Send items of one shape, or one request each.")
    return np.stack(rows)
