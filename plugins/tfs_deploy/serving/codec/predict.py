"""PredictRequest and PredictResponse without a second copy of the tensors.

``to_proto`` + ``SerializeToString`` copies a tensor three times, ``FromString`` + ``to_array`` twice more. Here a
request is joined from small headers, which protobuf writes, and the arrays' own memory; a response is scanned, and its
large fields become numpy views of its bytes. Both give exactly what the protobuf classes give: bytes that the scanner
does not support, malformed ones included, are parsed by those classes.

The wire format (protobuf.dev/programming-guides/encoding): a field is a varint ``number << 3 | type`` and a payload;
type 0 is a varint, 1 eight bytes, 2 a varint length and that many bytes, 5 four bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from tfs_deploy.errors import CorruptModel, InvalidInput
from tfs_deploy.serving.codec import messages, tensors
from tfs_deploy.serving.codec.wire_format import field_header, length_delimited

Array = npt.NDArray[Any]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Field numbers of predict.proto, of every map entry, and of tensor.proto.
_REQUEST_SPEC, _REQUEST_INPUTS, _REQUEST_FILTER = 1, 2, 3
_RESPONSE_OUTPUTS, _RESPONSE_SPEC = 1, 2
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_TENSOR_DTYPE, _TENSOR_SHAPE, _TENSOR_CONTENT = 1, 2, 4
# Typed lists whose packed form is the array itself: field number, element type on the wire.
_PACKED: dict[str, tuple[int, np.dtype[Any]]] = {
    "DT_FLOAT": (5, np.dtype("<f4")),
    "DT_DOUBLE": (6, np.dtype("<f8")),
    "DT_COMPLEX64": (9, np.dtype("<f4")),
    "DT_COMPLEX128": (12, np.dtype("<f8")),
}

# Requests from this size on are scanned. Measured: a scan takes 17 microseconds whatever the size; protobuf and
# `to_array` take 8 for a small request, 13 for 64 KB of content and 760 for 64 KB of packed floats.
_SCAN_BYTES = 4096


class _NotScannable(Exception):
    """The bytes are malformed, or in a valid form that only protobuf itself parses."""


def encode_predict_request(spec: Any, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> bytes:
    """Return the serialized PredictRequest; `spec` is a ModelSpec; each array's memory is copied once."""
    parts: list[bytes | memoryview] = [length_delimited(_REQUEST_SPEC, spec.SerializeToString())]
    for alias, array in inputs.items():
        parts.extend(_entry(alias, array))
    parts.extend(length_delimited(_REQUEST_FILTER, alias.encode()) for alias in outputs)
    size = sum(map(len, parts))
    if size > tensors.MAX_BYTES:
        raise InvalidInput(
            f"The request takes {size} bytes; a model server reads at most {tensors.MAX_BYTES}.",
            "Split it along the batch dimension and send several requests.",
        )
    return b"".join(parts)


def decode_predict_response(data: bytes) -> tuple[Any, dict[str, Array]]:
    """Return the ModelSpec and the outputs in a serialized PredictResponse; numbers may be views of `data`.

    The views are read-only, keep `data` alive and may be unaligned, which numpy handles. Raise CorruptModel where
    the bytes are no PredictResponse or hold something that is no array.
    """
    try:
        spec, values = _scan_response(data)
    except _NotScannable:
        response = _parse(messages.PredictResponse, data, "PredictResponse")
        return response.model_spec, {alias: _read(alias, proto) for alias, proto in response.outputs.items()}
    return spec, {alias: _decode_tensor(alias, value) for alias, value in values.items()}


@dataclass(frozen=True, slots=True, eq=False)
class PredictCall:
    """The contents of a PredictRequest, for the model server.

    Each input is an array, or the TensorProto it came in where that is not one piece of memory or holds no array.
    `has_spec` is false where the request has no `model_spec`; it is an empty one then.
    """

    model_spec: Any
    has_spec: bool
    inputs: Mapping[str, Any]
    output_filter: Sequence[str]


def decode_predict_request(data: bytes) -> PredictCall:
    """Return the contents of a serialized PredictRequest; raise DecodeError for other bytes.

    Arrays of large requests are read-only views of `data`. Protobuf parses small requests, where a scan in Python costs
    more than it saves, and those in a form that only protobuf parses.
    """
    if len(data) >= _SCAN_BYTES:
        try:
            return _scan_request(data)
        except _NotScannable:
            pass
    request = messages.PredictRequest.FromString(data)
    return PredictCall(request.model_spec, request.HasField("model_spec"), request.inputs, request.output_filter)


def _scan_request(data: bytes) -> PredictCall:
    spec: bytes | None = None
    inputs: dict[str, Any] = {}
    output_filter: list[str] = []
    for number, kind, payload in _fields(memoryview(data)):
        if kind != _BYTES or number > _REQUEST_FILTER:
            raise _NotScannable
        if number == _REQUEST_SPEC:
            if spec is not None:
                raise _NotScannable
            spec = bytes(payload)
        elif number == _REQUEST_INPUTS:
            alias, value = _scan_entry(payload)
            if alias in inputs:
                raise _NotScannable
            inputs[alias] = _array_or_proto(value)
        else:
            output_filter.append(_text(payload))
    return PredictCall(messages.ModelSpec.FromString(spec or b""), spec is not None, inputs, output_filter)


def _array_or_proto(data: memoryview) -> Any:
    try:
        array = _view_tensor(data)
    except (_NotScannable, CorruptModel):
        array = None
    return messages.TensorProto.FromString(bytes(data)) if array is None else array


def _text(data: memoryview) -> str:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as error:
        raise _NotScannable from error


def _entry(alias: str, array: Array) -> Iterator[bytes | memoryview]:
    """Yield one `inputs` entry: the key, then a TensorProto whose content is the array's memory."""
    key = length_delimited(_ENTRY_KEY, alias.encode())
    if tensors.dtype_name(array) == "DT_STRING":
        head, body = tensors.to_proto(array).SerializeToString(), memoryview(b"")
    else:
        head, body = tensors.tensor_head(array).SerializeToString(), tensors.content(array)
        if len(body):
            head += field_header(_TENSOR_CONTENT, len(body))
    value_size = len(head) + len(body)
    value_head = field_header(_ENTRY_VALUE, value_size)
    yield field_header(_REQUEST_INPUTS, len(key) + len(value_head) + value_size) + key + value_head + head
    yield body


def _scan_response(data: bytes) -> tuple[Any, dict[str, memoryview]]:
    """Return the ModelSpec and, by alias, the bytes of each output's TensorProto."""
    spec: bytes | None = None
    values: dict[str, memoryview] = {}
    for number, kind, payload in _fields(memoryview(data)):
        if number == _RESPONSE_SPEC and kind == _BYTES:
            if spec is not None:
                raise _NotScannable
            spec = bytes(payload)
        elif number == _RESPONSE_OUTPUTS and kind == _BYTES:
            alias, value = _scan_entry(payload)
            if alias in values:
                raise _NotScannable
            values[alias] = value
    return _parse(messages.ModelSpec, spec or b"", "ModelSpec"), values


def _scan_entry(entry: memoryview) -> tuple[str, memoryview]:
    parts: dict[int, memoryview] = {}
    for number, kind, payload in _fields(entry):
        # A map entry or a message that comes in pieces merges by rules of its own.
        if number not in (_ENTRY_KEY, _ENTRY_VALUE) or kind != _BYTES or number in parts:
            raise _NotScannable
        parts[number] = payload
    return _text(parts.get(_ENTRY_KEY, memoryview(b""))), parts.get(_ENTRY_VALUE, memoryview(b""))


def _decode_tensor(alias: str, data: memoryview) -> Array:
    try:
        array = _view_tensor(data)
    except _NotScannable:
        array = None
    except CorruptModel as error:
        raise _with_alias(alias, error) from error
    return array if array is not None else _read(alias, _parse(messages.TensorProto, bytes(data), "TensorProto"))


def _view_tensor(data: memoryview) -> Array | None:
    """Return the tensor as a view of `data`; None where it is not stored as one piece of memory."""
    fields: dict[int, tuple[int, memoryview]] = {}
    for number, kind, payload in _fields(data):
        if number in fields:
            return None
        fields[number] = (kind, payload)
    name = tensors.supported_dtype(_scan_dtype(fields))
    shape_kind, shape_data = fields.pop(_TENSOR_SHAPE, (_BYTES, memoryview(b"")))
    if shape_kind != _BYTES or len(fields) != 1:
        return None
    shape_proto = _parse(messages.TensorShapeProto, bytes(shape_data), "TensorShapeProto")
    if shape_proto.unknown_rank:
        return None
    shape = tensors.shape_of(shape_proto)
    ((number, (kind, payload)),) = fields.items()
    if kind != _BYTES or not len(payload):
        return None
    if number == _TENSOR_CONTENT:
        return tensors.from_content(name, shape, payload)
    if name not in _PACKED or number != _PACKED[name][0] or len(payload) % _PACKED[name][1].itemsize:
        return None
    element = _PACKED[name][1]
    values: Array = np.frombuffer(payload, dtype=element)
    return tensors.from_list(name, shape, values.astype(element.newbyteorder("="), copy=False))


def _scan_dtype(fields: dict[int, tuple[int, memoryview]]) -> int:
    kind, payload = fields.pop(_TENSOR_DTYPE, (_BYTES, memoryview(b"")))
    if kind != _VARINT or len(payload) != 1:  # every dtype that is served has a number below 128
        raise _NotScannable
    return payload[0]


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield (number, wire type, payload) for each field; raise _NotScannable for groups and malformed bytes."""
    position, end = 0, len(data)
    while position < end:
        tag, position = _read_varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            length, position = _read_varint(data, position)
            stop = position + length
        elif kind == _VARINT:
            stop = _read_varint(data, position)[1]
        elif kind == _FIXED32:
            stop = position + 4
        elif kind == _FIXED64:
            stop = position + 8
        else:
            raise _NotScannable
        if stop > end or not 0 < number < 2**29:
            raise _NotScannable
        yield number, kind, data[position:stop]
        position = stop


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _NotScannable


def _parse(kind: Any, data: bytes, name: str) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise CorruptModel(
            f"{len(data)} bytes from a model server are not a {name}.",
            "Check that the target is a TensorFlow Serving gRPC port and that no proxy changes its answers.",
        ) from error


def _read(alias: str, proto: Any) -> Array:
    try:
        return tensors.to_array(proto)
    except CorruptModel as error:
        raise _with_alias(alias, error) from error


def _with_alias(alias: str, error: CorruptModel) -> CorruptModel:
    return CorruptModel(f"Output {alias!r}: {error.cause}", error.remedy)
