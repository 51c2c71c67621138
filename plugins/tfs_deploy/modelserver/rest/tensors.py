"""Converts JSON values to tensors, with TF Serving's rules and errors for each dtype.

Nothing is cast: a float is no integer, and an integer that a float cannot represent is refused. Only the small integers
wrap around, as in TF Serving, where they are int32 in between (contract 20.11).
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import Any

import numpy as np

from tfs_deploy.modelserver.graph.servable import Array
from tfs_deploy.modelserver.rest.json_writer import FLOAT_MAX, INT64_MIN, UINT64_MAX, encoded, error_text, is_double
from tfs_deploy.modelserver.status import Code, StatusError, invalid_argument
from tfs_deploy.serving.codec import messages, tensors

_INT32 = (-(2**31), 2**31 - 1)
_INTEGERS = {
    **dict.fromkeys(("DT_INT8", "DT_UINT8", "DT_INT16", "DT_INT32"), _INT32),
    "DT_INT64": (INT64_MIN, 2**63 - 1),
    "DT_UINT32": (0, 2**32 - 1),
    "DT_UINT64": (0, UINT64_MAX),
}
# The greatest integer below which the dtype holds every integer (TF Serving takes one less), and its greatest value.
_FLOATS = {"DT_FLOAT": (2**24 - 1, FLOAT_MAX), "DT_DOUBLE": (2**53 - 1, float(np.finfo(np.float64).max))}
_KINDS = {type(None): "Null", bool: "", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
_BASE64_SPACE = re.compile(r"[ \t\n\v\f\r]+")
_BASE64_KEY = "b64"

Shape = tuple[int, ...]


class TensorFiller:
    """Collects the values of one tensor of DataType number `dtype`."""

    def __init__(self, dtype: int) -> None:
        self._dtype = messages.enum_names("tensorflow.DataType").get(dtype, "DT_INVALID")
        self._values: list[Any] = []

    def add(self, value: Any) -> tuple[int, Shape]:
        """Append the elements of `value`; return their number and their shape."""
        shape = _shape(value)
        before = len(self._values)
        self._fill(value, 0, shape)
        return len(self._values) - before, shape

    def array(self, shape: Shape) -> Array:
        """Return everything that was added, as an array of `shape`."""
        if self._dtype == "DT_STRING":
            array = np.empty(len(self._values), dtype=object)
            array[:] = self._values
        elif self._dtype in _INTEGERS and self._dtype != "DT_UINT64":
            array = np.array(self._values, np.int64).astype(tensors.NUMPY_BY_NAME[self._dtype])
        elif self._dtype == "DT_FLOAT":
            array = np.array(self._values, np.float64).astype(np.float32)
        else:
            array = np.array(self._values, tensors.NUMPY_BY_NAME.get(self._dtype))
        return array.reshape(shape)

    def _fill(self, value: Any, level: int, shape: Shape) -> None:
        if type(value) is not list:
            if level != len(shape):
                raise invalid_argument(
                    f"JSON Value: {error_text(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                    f"Expected at level: {len(shape)}"
                )
            self._values.append(_element(value, self._dtype))
            return
        if level >= len(shape):
            raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        if len(value) != shape[level]:
            raise invalid_argument(
                f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
            )
        if level == len(shape) - 1 and _all_plain(value, self._dtype):
            self._values.extend(value)
            return
        for item in value:
            self._fill(item, level + 1, shape)


def is_base64(value: Any) -> bool:
    """Return whether `value` means bytes: an object with the single member ``b64``, a string."""
    return type(value) is dict and len(value) == 1 and isinstance(value.get(_BASE64_KEY), str)


def base64_bytes(value: Any) -> bytes:
    """Return the bytes of ``{"b64": ...}``; white space and missing padding are allowed."""
    if not is_base64(value):
        raise invalid_argument(f"JSON Value: {error_text(value)} not formatted correctly for base64 data")
    text = _BASE64_SPACE.sub("", value[_BASE64_KEY])
    bare = text.rstrip("=.")
    padding = len(text) - len(bare)
    try:
        if padding not in (0, -len(bare) % 4):
            raise binascii.Error
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except ValueError as error:  # binascii.Error, or text that is not ASCII
        raise invalid_argument("Unable to base64 decode") from error


def kind_of(value: Any) -> str:
    """Return RapidJSON's name for the type of `value`."""
    return _KINDS[type(value)] or str(value)


def lossless(value: float, dtype: str) -> float:
    """Return a number for DT_FLOAT or DT_DOUBLE; refuse one that the dtype cannot represent."""
    integer, greatest = _FLOATS[dtype]
    limit = greatest if is_double(value) else integer
    if math.isfinite(value) and abs(value) > limit:
        name = dtype.removeprefix("DT_").lower()
        raise invalid_argument(f"Cannot convert JSON value: {error_text(value)} to {name} without loss of precision.")
    return value


def _shape(value: Any) -> Shape:
    sizes = []
    while type(value) is list:
        sizes.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(sizes)


def _all_plain(values: list[Any], dtype: str) -> bool:
    """Return whether all values can be used unchanged: a fast check for long lists, of which most requests consist."""
    kinds = set(map(type, values))
    if kinds == {float} and dtype in _FLOATS:
        limit = _FLOATS[dtype][1]
        return bool(-limit <= min(values) and max(values) <= limit and not any(map(math.isnan, values)))
    if kinds == {int} and (dtype in _INTEGERS or dtype in _FLOATS):
        low, high = _INTEGERS.get(dtype) or (-_FLOATS[dtype][0], _FLOATS[dtype][0])
        return bool(low <= min(values) and max(values) <= high)
    return False


def _element(value: Any, dtype: str) -> Any:
    if type(value) is dict:
        if dtype != "DT_STRING":
            raise _wrong_type(value, dtype)
        return base64_bytes(value)
    if dtype in _FLOATS:
        if type(value) not in (int, float):
            raise _wrong_type(value, dtype)
        return lossless(value, dtype)
    if dtype in _INTEGERS:
        low, high = _INTEGERS[dtype]
        if type(value) is not int or not low <= value <= high:
            raise _wrong_type(value, dtype)
        return value
    if dtype == "DT_STRING" and type(value) is str:
        return encoded(value)
    if dtype == "DT_BOOL" and type(value) is bool:
        return value
    if dtype in ("DT_STRING", "DT_BOOL"):
        raise _wrong_type(value, dtype)
    raise StatusError(
        Code.UNIMPLEMENTED, f"Conversion of JSON Value: {error_text(value)} to type: {_dtype_text(dtype)}"
    )


def _wrong_type(value: Any, dtype: str) -> StatusError:
    return invalid_argument(
        f"JSON Value: {error_text(value)} Type: {kind_of(value)} is not of expected type: {_dtype_text(dtype)}"
    )


def _dtype_text(dtype: str) -> str:
    return dtype.removeprefix("DT_").lower()
