"""Writes PredictResponse: numbers as typed ``*_val`` lists, as TF Serving does, without a Python object per number.

The packed form of float, double and complex lists is the array's own memory, so those are joined from a header that
protobuf writes and that memory; integers travel as varints and are left to protobuf.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tfs_deploy.errors import TFSDeployError
from tfs_deploy.modelserver.status import Code, StatusError
from tfs_deploy.serving import tensors

Array = npt.NDArray[Any]

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


def encode_predict_response(spec: Any, outputs: Mapping[str, Array], *, as_content: bool = False) -> bytes:
    """Return the serialized PredictResponse; `as_content` puts numbers into ``tensor_content`` instead."""
    parts = [_lengthed(_SPEC, spec.SerializeToString())]
    for alias, array in outputs.items():
        try:
            tensor = tensors.to_proto(array).SerializeToString() if as_content else encode_tensor(array)
        except TFSDeployError as error:
            raise StatusError(Code.UNIMPLEMENTED, f"output tensor {alias}: {error.cause}") from error
        parts.append(_lengthed(_OUTPUTS, _lengthed(_KEY, alias.encode()) + _lengthed(_VALUE, tensor)))
    return b"".join(parts)


def encode_tensor(array: Array) -> bytes:
    """Return the serialized TensorProto of `array` with its values in the typed list of its dtype."""
    if isinstance(array, bytes):  # what the session gives for a scalar string; numpy would drop trailing NULs
        array = np.array(array, dtype=object)
    name = tensors.dtype_name(array)
    head = tensors.tensor_head(array)
    if name == "DT_STRING":
        head.string_val.extend(tensors.strings(array))
    elif name in _HALVES:
        head.half_val.extend(array.reshape(-1).view(np.uint16).tolist())
    elif name not in _PACKED:
        getattr(head, _LISTS.get(name, "int_val")).extend(array.reshape(-1).tolist())
    else:
        field, element = _PACKED[name]
        packed = np.ascontiguousarray(array).reshape(-1).view(element).tobytes()
        return _serialized(head) + (_lengthed(field, packed) if packed else b"")
    return _serialized(head)


def _serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _lengthed(field: int, payload: bytes) -> bytes:
    return bytes((field << 3 | 2,)) + varint(len(payload)) + payload


def varint(number: int) -> bytes:
    """Return `number`, not negative, in protobuf's variable length."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
