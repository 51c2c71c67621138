"""numpy arrays to TensorProto and back, as TF Serving reads and writes them, without TensorFlow."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tfs_deploy.errors import CorruptModel, InvalidInput
from tfs_deploy.serving.codec import messages

Array = npt.NDArray[Any]

# What TF Serving takes and gives; quantized, resource and variant tensors are refused.
NUMPY_BY_NAME: dict[str, np.dtype[Any]] = {
    "DT_BOOL": np.dtype(np.bool_),
    "DT_INT8": np.dtype(np.int8),
    "DT_INT16": np.dtype(np.int16),
    "DT_INT32": np.dtype(np.int32),
    "DT_INT64": np.dtype(np.int64),
    "DT_UINT8": np.dtype(np.uint8),
    "DT_UINT16": np.dtype(np.uint16),
    "DT_UINT32": np.dtype(np.uint32),
    "DT_UINT64": np.dtype(np.uint64),
    "DT_HALF": np.dtype(np.float16),
    "DT_BFLOAT16": np.dtype(ml_dtypes.bfloat16),
    "DT_FLOAT": np.dtype(np.float32),
    "DT_DOUBLE": np.dtype(np.float64),
    "DT_COMPLEX64": np.dtype(np.complex64),
    "DT_COMPLEX128": np.dtype(np.complex128),
    "DT_STRING": np.dtype(object),
}
_NAME_BY_NUMPY = {dtype: name for name, dtype in NUMPY_BY_NAME.items() if name != "DT_STRING"}
# numpy kinds that hold text: bytes, str, Python objects, variable-width strings (numpy 2).
_TEXT_KINDS = "SUOT"

# The typed list that carries each dtype (tensor.proto), and the numpy type of that list's elements.
_LISTS: dict[str, tuple[str, np.dtype[Any]]] = {
    "DT_FLOAT": ("float_val", np.dtype(np.float32)),
    "DT_DOUBLE": ("double_val", np.dtype(np.float64)),
    "DT_INT64": ("int64_val", np.dtype(np.int64)),
    "DT_UINT32": ("uint32_val", np.dtype(np.uint32)),
    "DT_UINT64": ("uint64_val", np.dtype(np.uint64)),
    "DT_BOOL": ("bool_val", np.dtype(np.bool_)),
    "DT_COMPLEX64": ("scomplex_val", np.dtype(np.float32)),
    "DT_COMPLEX128": ("dcomplex_val", np.dtype(np.float64)),
    "DT_HALF": ("half_val", np.dtype(np.int32)),
    "DT_BFLOAT16": ("half_val", np.dtype(np.int32)),
    **dict.fromkeys(("DT_INT8", "DT_INT16", "DT_INT32", "DT_UINT8", "DT_UINT16"), ("int_val", np.dtype(np.int32))),
}

MAX_BYTES = 2**31 - 1  # protobuf refuses longer messages, so no single tensor can be longer either
_MAX_RANK = 32  # numpy 1.26's limit; numpy 2 allows 64, TensorFlow 254

_SUPPORTED = ", ".join(name.removeprefix("DT_").lower() for name in NUMPY_BY_NAME)


@cache
def dtype_number(name: str) -> int:
    """Return the number of the DataType called `name`, e.g. 1 for ``DT_FLOAT``."""
    for number, known in messages.enum_names("tensorflow.DataType").items():
        if known == name:
            return number
    raise InvalidInput(f"There is no TensorFlow dtype called {name!r}.", "Use a name like 'DT_FLOAT'.")


def as_array(value: object) -> Array:
    """Return `value` as an array and change no dtype; lists of text keep every byte (no padding to a width)."""
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value)
        if array.dtype.kind in "SU":  # numpy's fixed-width text drops trailing NULs
            array = np.asarray(value, dtype=object)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(
            f"A value of type {type(value).__name__} is not a tensor: {error}.",
            "Give a numpy array, or lists nested to one regular shape.",
        ) from error
    return array


def dtype_name(array: Array) -> str:
    """Return TensorFlow's name for the dtype of `array`; raise InvalidInput where there is none."""
    if array.dtype.kind in _TEXT_KINDS:
        return "DT_STRING"
    name = _NAME_BY_NUMPY.get(array.dtype.newbyteorder("="))
    if name is None:
        raise InvalidInput(
            f"An array of numpy dtype {array.dtype} cannot be sent to a model server.",
            f"Convert it to one of: {_SUPPORTED}.",
        )
    return name


def to_proto(array: object, dtype: str | None = None) -> Any:
    """Return the TensorProto of `array`: text as string_val, everything else as tensor_content.

    `dtype` (a TensorFlow name) says what lists and scalars become; an array must have it already.
    """
    values = _with_dtype(array, dtype)
    proto = tensor_head(values)
    if proto.dtype == dtype_number("DT_STRING"):
        proto.string_val.extend(strings(values))
    else:
        proto.tensor_content = content(values).tobytes()
    return proto


def tensor_head(array: Array) -> Any:
    """Return a TensorProto that has the dtype and shape of `array` and no values yet."""
    proto = messages.TensorProto(dtype=dtype_number(dtype_name(array)))
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def content(array: Array) -> memoryview:
    """Return the packed little-endian bytes of a numeric `array`; no copy where it is stored like that already."""
    check_size(array.nbytes)
    packed = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    view: memoryview = packed.reshape(-1).view(np.uint8).data
    return view


def strings(array: Array) -> list[bytes]:
    """Return the elements of a text `array` as bytes in row-major order; str becomes UTF-8."""
    flat: list[Any] = array.reshape(-1).tolist()
    for index, item in enumerate(flat):
        if isinstance(item, str):
            flat[index] = _utf8(item)
        elif not isinstance(item, bytes):
            raise InvalidInput(
                f"Element {index} of a DT_STRING tensor is a {type(item).__name__}.", "Use bytes or str elements."
            )
    check_size(sum(map(len, flat)) + 6 * len(flat))
    return flat


def check_size(size: int) -> None:
    """Raise InvalidInput if `size` bytes do not fit into one protobuf message."""
    if size > MAX_BYTES:
        raise InvalidInput(
            f"A tensor takes {size} bytes; one request holds at most {MAX_BYTES}.",
            "Split it along its first dimension and send several requests.",
        )


def to_array(proto: Any) -> Array:
    """Return the array in a TensorProto, by TensorFlow's own rules; raise CorruptModel where it holds none.

    tensor_content wins over typed lists; a short list repeats its last value, an empty one gives zeros or ``b""``,
    surplus values and lists of another dtype are ignored. Strings are bytes in an object array. The result may be a
    read-only view of the message's bytes.
    """
    name = supported_dtype(proto.dtype)
    shape = shape_of(proto.tensor_shape)
    if proto.tensor_content:
        if proto.tensor_shape.unknown_rank:
            raise _corrupt(f"A {name} tensor has content but unknown rank")
        return from_content(name, shape, proto.tensor_content)
    if name == "DT_STRING":
        return _of_strings(proto.string_val, shape)
    field, element = _LISTS[name]
    count = element_count(name, shape)
    per_element = 2 if name.startswith("DT_COMPLEX") else 1
    values = np.asarray(getattr(proto, field)[: count * per_element], dtype=element)
    return from_list(name, shape, values)


def supported_dtype(number: int) -> str:
    """Return the name of DataType `number`; raise CorruptModel unless it is one of `NUMPY_BY_NAME`."""
    name = messages.enum_names("tensorflow.DataType").get(number)
    if name not in NUMPY_BY_NAME:
        raise CorruptModel(
            f"A tensor has dtype {name or number}, which cannot be turned into a numpy array.",
            f"Use a signature whose inputs and outputs are: {_SUPPORTED}.",
        )
    return name


def shape_of(proto: Any) -> tuple[int, ...]:
    """Return the dimensions in a TensorShapeProto; raise CorruptModel unless all are known."""
    shape = tuple(dim.size for dim in proto.dim)
    if any(size < 0 for size in shape):
        raise _corrupt(f"A tensor has the shape {list(shape)} with a negative dimension")
    if len(shape) > _MAX_RANK:
        raise _corrupt(f"A tensor has {len(shape)} dimensions; at most {_MAX_RANK} can be read")
    return shape


def element_count(name: str, shape: Sequence[int]) -> int:
    """Return the number of elements of `shape`; raise CorruptModel if no such array can exist in memory."""
    itemsize = NUMPY_BY_NAME[name].itemsize
    count = math.prod(shape)
    # numpy multiplies the dimensions that are not zero even for an empty array.
    reach = math.prod(size for size in shape if size)
    if count * itemsize > MAX_BYTES or reach * itemsize > sys.maxsize:
        raise _corrupt(f"A {name} tensor of shape {list(shape)} would take more than {MAX_BYTES} bytes")
    return count


def from_content(name: str, shape: tuple[int, ...], data: bytes | memoryview) -> Array:
    """Return `data`, the bytes of a tensor_content, as an array; numbers as a read-only view."""
    count = element_count(name, shape)
    dtype = NUMPY_BY_NAME[name]
    if not count:  # TensorFlow ignores the content of an empty tensor
        return np.empty(shape, dtype=dtype)
    if name == "DT_STRING":
        return _fill_objects(_string_list(bytes(data), count), shape)
    if count * dtype.itemsize != len(data):
        raise _corrupt(
            f"A {name} tensor of shape {list(shape)} needs {count * dtype.itemsize} bytes, "
            f"but its content has {len(data)}"
        )
    if name == "DT_BOOL" and (wrong := np.frombuffer(data, dtype=np.uint8).max()) > 1:
        # TensorFlow 2.20 and 2.21 refuse it too (tf.io.parse_tensor, tried).
        raise _corrupt(f"A DT_BOOL tensor has the byte {wrong} in its content, where only 0 and 1 may stand")
    return _native(np.frombuffer(data, dtype=dtype.newbyteorder("<"))).reshape(shape)


def from_list(name: str, shape: tuple[int, ...], values: Array) -> Array:
    """Return the elements of a typed list (`values`, as stored in the proto) as an array of `shape`."""
    count = element_count(name, shape)
    dtype = NUMPY_BY_NAME[name]
    if name.startswith("DT_COMPLEX"):  # real and imaginary parts take turns
        values = values[: len(values) // 2 * 2].view(dtype)
    elif name in ("DT_HALF", "DT_BFLOAT16"):  # the bits travel as integers
        values = values.astype(np.uint16).view(dtype)
    else:
        values = values.astype(dtype, copy=False)
    if len(values) >= count:
        return values[:count].reshape(shape)
    full = np.zeros(count, dtype=dtype)
    if len(values):
        full[: len(values)] = values
        full[len(values) :] = values[-1]
    return full.reshape(shape)


def _with_dtype(value: object, dtype: str | None) -> Array:
    if dtype is None:
        return as_array(value)
    if dtype not in NUMPY_BY_NAME:
        raise InvalidInput(f"Tensors of dtype {dtype} are not supported.", f"Use one of: {_SUPPORTED}.")
    if not isinstance(value, np.ndarray):
        try:
            return np.asarray(value, dtype=NUMPY_BY_NAME[dtype])
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidInput(
                f"A value of type {type(value).__name__} is not a {dtype} tensor: {error}.",
                "Give values of that type, nested to one regular shape.",
            ) from error
    if dtype_name(value) != dtype:
        raise InvalidInput(f"An array of numpy dtype {value.dtype} is not {dtype}.", "Convert it with .astype() first.")
    return value


def _of_strings(values: Iterable[bytes], shape: tuple[int, ...]) -> Array:
    count = element_count("DT_STRING", shape)
    items = list(values)[:count]
    items += [items[-1] if items else b""] * (count - len(items))
    return _fill_objects(items, shape)


def _fill_objects(items: list[bytes], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)


def _string_list(data: bytes, count: int) -> list[bytes]:
    """Split TensorFlow's packed strings: `count` varint lengths, then the bytes of all of them."""
    lengths, position = [], 0
    for _ in range(count):
        length = shift = 0
        while True:
            if position >= len(data) or shift > 28:
                raise _corrupt(f"The content of a DT_STRING tensor does not hold {count} strings")
            byte = data[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if position + sum(lengths) != len(data):
        raise _corrupt(f"The content of a DT_STRING tensor has {len(data)} bytes, not {position + sum(lengths)}")
    items = []
    for length in lengths:
        items.append(data[position : position + length])
        position += length
    return items


def _native(array: Array) -> Array:
    """Return `array` in this machine's byte order; a copy only on big-endian machines."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"A str element has no UTF-8 form: {error}.", "Give bytes instead.") from error


def _corrupt(cause: str) -> CorruptModel:
    return CorruptModel(f"{cause}.", "Check what wrote this tensor.")
