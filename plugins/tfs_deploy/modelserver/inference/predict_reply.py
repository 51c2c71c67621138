"""Writes PredictResponse: numbers as typed ``*_val`` lists, as TF Serving does, without a Python object per number.

The packed form of float, double and complex lists is the array's own memory, so those are joined from a header that
protobuf writes and that memory; integers travel as varints and are left to protobuf.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tfs_deploy.errors import TFSDeployError
from tfs_deploy.modelserver.status import Code, StatusError
from tfs_deploy.serving.codec import messages, tensors
from tfs_deploy.serving.codec.wire_format import lead, lengthed, varint

Array = npt.NDArray[Any]
Buffer = bytes | memoryview

# Field number and wire element of the lists whose packed form is the array's memory (tensor.proto).
_PACKED: dict[str, tuple[int, str]] = {
    "DT_FLOAT": (5, "<f4"),
    "DT_DOUBLE": (6, "<f8"),
    "DT_COMPLEX64": (9, "<f4"),
    "DT_BOOL": (11, "|u1"),
    "DT_COMPLEX128": (12, "<f8"),
}
_LISTS = {"DT_INT64": "int64_val", "DT_UINT32": "uint32_val", "DT_UINT64": "uint64_val"}
_HALVES = ("DT_HALF", "DT_BFLOAT16")
_OUTPUTS, _SPEC, _KEY, _VALUE = 1, 2, 1, 2
_CONTENT = 4


def encode_predict_response(spec: bytes, outputs: Mapping[str, Array], *, as_content: bool = False) -> bytes:
    """Return the serialized PredictResponse; `spec` is a serialized ModelSpec.

    `as_content` puts values into ``tensor_content`` instead of lists.
    """
    parts: list[Buffer] = [lengthed(_SPEC, spec)]
    for alias, array in outputs.items():
        try:
            head, body = _tensor_with_content(array) if as_content else _tensor(array)
        except TFSDeployError as error:
            raise StatusError(Code.UNIMPLEMENTED, f"output tensor {alias}: {error.cause}") from error
        size = len(head) + len(body)
        entry = lengthed(_KEY, alias.encode()) + lead(_VALUE, size)
        parts += (lead(_OUTPUTS, len(entry) + size), entry, head, body)
    return b"".join(parts)


def encode_tensor(array: Array) -> bytes:
    """Return the serialized TensorProto of `array` with its values in the typed list of its dtype."""
    return b"".join(_tensor(array))


def _tensor(array: Array) -> tuple[bytes, Buffer]:
    """Return the serialized TensorProto in two pieces, the second of which may be the array's own memory."""
    if isinstance(array, bytes):  # what the session gives for a scalar string; numpy would drop trailing NULs
        array = np.array(array, dtype=object)
    name = tensors.dtype_name(array)
    head = _head(name, array.shape)
    if name in _PACKED:
        field, element = _PACKED[name]
        packed: Buffer = np.ascontiguousarray(array).reshape(-1).view(element).view(np.uint8).data
        return (head + lead(field, len(packed)), packed) if len(packed) else (head, b"")
    values = messages.TensorProto()
    if name == "DT_STRING":
        values.string_val.extend(tensors.strings(array))
    elif name in _HALVES:
        values.half_val.extend(array.reshape(-1).view(np.uint16).tolist())
    else:
        getattr(values, _LISTS.get(name, "int_val")).extend(array.reshape(-1).tolist())
    return head, _serialized(values)


def _tensor_with_content(array: Array) -> tuple[bytes, Buffer]:
    """Return the serialized TensorProto with its values in ``tensor_content``.

    Strings too, as `EncodeStringList` does: all lengths, then all bytes; nothing outside of C++ decodes that.
    """
    if isinstance(array, bytes):  # a scalar string
        array = np.array(array, dtype=object)
    if tensors.dtype_name(array) != "DT_STRING":
        return _serialized(tensors.to_proto(array)), b""
    texts = tensors.strings(array)
    packed = b"".join((*(varint(len(text)) for text in texts), *texts))
    return _head("DT_STRING", array.shape) + (lengthed(_CONTENT, packed) if packed else b""), b""


@lru_cache(maxsize=1024)
def _head(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the serialized dtype and shape: few of them come back again and again."""
    proto = messages.TensorProto(dtype=tensors.dtype_number(dtype))
    proto.tensor_shape.SetInParent()
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return _serialized(proto)


def _serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
