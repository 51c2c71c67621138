"""Predict on one version: from the request's tensors to the reply's bytes, with TF Serving's checks in its order.

Nothing is cast, and shapes are not compared with the signature: the runtime raises the errors (contract 7.2, 20.1).

The reply has numbers in typed ``*_val`` lists, as TF Serving's, without a Python object per number: the packed form of
float, double, complex and bool lists is the array's own memory, which is joined to a header that protobuf writes;
integers are varints and left to protobuf.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tfs_deploy.errors import TFSDeployError
from tfs_deploy.modelserver import metrics
from tfs_deploy.modelserver.graph.servable import Array, Servable, SignaturePlan
from tfs_deploy.modelserver.status import Code, StatusError, failed_precondition, invalid_argument, of_exception
from tfs_deploy.serving.codec import messages, tensors
from tfs_deploy.serving.codec.wire_format import field_header, length_delimited, varint
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE

# `DataTypeString`: TensorFlow's names for the numbers of DataType, where they are not the enum's in lower case.
_UNSERVED = {
    11: "qint8", 12: "quint8", 13: "qint32", 15: "qint16", 16: "quint16", 20: "resource", 21: "variant",
    24: "float8_e5m2", 25: "float8_e4m3fn", 29: "int4", 30: "uint4",
}  # fmt: skip


_METHOD_NAMES = tuple(f"tensorflow/serving/{name}" for name in ("predict", "classify", "regress"))


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """The flags of Predict."""

    as_content: bool = False
    check_method_name: bool = False


PLAIN = PredictOptions()


def run_predict(
    servable: Servable, request: Any, options: PredictOptions = PLAIN, *, timeout_ms: int | None = None
) -> bytes:
    """Return the serialized PredictResponse; raise StatusError.

    `request` is a PredictRequest or a `PredictCall`, whose version is chosen already.
    """
    plan, outputs = _run(servable, request, options, timeout_ms)
    return encode_predict_response(plan.spec, outputs, as_content=options.as_content)


def predict_outputs(
    servable: Servable, request: Any, options: PredictOptions = PLAIN, *, timeout_ms: int | None = None
) -> dict[str, Array]:
    """Return the outputs by alias; raise StatusError."""
    return _run(servable, request, options, timeout_ms)[1]


def _run(
    servable: Servable, request: Any, options: PredictOptions, timeout_ms: int | None
) -> tuple[SignaturePlan, dict[str, Array]]:
    key = request.model_spec.signature_name or DEFAULT_SIGNATURE
    plan = servable.plan(key)
    if plan is None:
        raise failed_precondition(f'Serving signature key "{key}" not found.')
    if options.check_method_name and plan.definition.method_name not in _METHOD_NAMES:
        raise StatusError(
            Code.INTERNAL,
            f"Expected prediction signature method_name to be one of {{{', '.join(_METHOD_NAMES)}}}. "
            f"Was: {plan.definition.method_name}",
        )
    _check_count(plan, request.inputs)
    feeds = _feeds(plan, request.inputs)
    aliases = _output_aliases(plan, request.output_filter)
    begun = time.monotonic()
    try:
        outputs = servable.session.run(feeds, [plan.outputs[alias] for alias in aliases], timeout_ms=timeout_ms)
    except Exception as error:  # of the runtime: every kind of it has a code
        raise of_exception(error) from error
    metrics.record_run(servable.name, "Predict", begun)
    return plan, dict(zip(aliases, outputs, strict=True))


def _check_count(plan: SignaturePlan, inputs: Mapping[str, Any]) -> None:
    """Refuse too many inputs, and too few if the signature has no defaults."""
    given, expected = len(inputs), len(plan.inputs)
    if given == expected or (given < expected and plan.definition.defaults):
        return
    sent, known = set(inputs), set(plan.inputs)
    raise invalid_argument(
        f"input size does not match signature: {given}!={expected} len({_braces(sent)}) != len({_braces(known)}). "
        f"Sent extra: {_braces(sent - known)}. Missing but required: {_braces(known - sent)}."
    )


def _feeds(plan: SignaturePlan, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """Return the arrays by tensor name, with the signature's defaults for inputs that were not sent."""
    protos: dict[str, tuple[str, Any]] = {}
    signature = plan.definition
    used = 0
    for alias, name in plan.inputs.items():
        if alias in inputs:
            used += 1
            protos[name] = (alias, inputs[alias])
        elif alias in signature.defaults:
            protos[name] = (alias, signature.defaults[alias])
        else:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {name}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {_braces(inputs)}, or default input alias set: "
                + ",".join(sorted(signature.defaults))
            )
    if used != len(inputs):
        known = ",".join(sorted(set(inputs) & set(plan.inputs)))
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {known}, request input: {','.join(sorted(inputs))}"
        )
    return {name: _array(alias, proto, signature, protos) for name, (alias, proto) in protos.items()}


def _array(alias: str, proto: Any, signature: Any, protos: Mapping[str, Any]) -> Array:
    if isinstance(proto, np.ndarray):
        return proto
    unserved = _UNSERVED.get(proto.dtype)
    if unserved is not None:
        # A resource aborts the runtime of a real server (contract 20.11); here it gets the dtype error of a variant.
        # The runtime numbers the arguments by sorted tensor name.
        info = signature.inputs[alias]
        expected = messages.enum_names("tensorflow.DataType")[info.dtype].removeprefix("DT_").lower()
        place = sorted(protos).index(info.name)
        raise invalid_argument(f"Expects arg[{place}] to be {expected} but {unserved} is provided")
    if proto.tensor_shape.unknown_rank:
        # The runtime reads the dimensions nevertheless (contract 20.11).
        known = messages.TensorProto()
        known.CopyFrom(proto)
        known.tensor_shape.unknown_rank = False
        proto = known
    try:
        return tensors.to_array(proto)
    except (TFSDeployError, MemoryError, ValueError) as error:
        raise invalid_argument(f"tensor parsing error: {alias}") from error


def _output_aliases(plan: SignaturePlan, output_filter: Iterable[str]) -> list[str]:
    """Return the outputs of the filter; all outputs without one."""
    aliases: list[str] = []
    for alias in output_filter:
        if alias not in plan.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_braces(plan.outputs)}."
            )
        if alias in aliases:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        aliases.append(alias)
    return aliases or list(plan.outputs)


def _braces(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


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
    parts: list[Buffer] = [length_delimited(_SPEC, spec)]
    for alias, array in outputs.items():
        try:
            head, body = _tensor_with_content(array) if as_content else _tensor(array)
        except TFSDeployError as error:
            raise StatusError(Code.UNIMPLEMENTED, f"output tensor {alias}: {error.cause}") from error
        size = len(head) + len(body)
        entry = length_delimited(_KEY, alias.encode()) + field_header(_VALUE, size)
        parts += (field_header(_OUTPUTS, len(entry) + size), entry, head, body)
    return b"".join(parts)


def _tensor(array: Array) -> tuple[bytes, Buffer]:
    """Return the serialized TensorProto in two parts, the second of which may be the array's own memory."""
    if isinstance(array, bytes):  # the session's scalar string, in which NumPy would drop trailing NULs
        array = np.array(array, dtype=object)
    name = tensors.dtype_name(array)
    head = _head(name, array.shape)
    if name in _PACKED:
        field, element = _PACKED[name]
        packed: Buffer = np.ascontiguousarray(array).reshape(-1).view(element).view(np.uint8).data
        return (head + field_header(field, len(packed)), packed) if len(packed) else (head, b"")
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

    Strings are all lengths, then all bytes, as `EncodeStringList` writes them; only C++ decodes that.
    """
    if isinstance(array, bytes):  # a scalar string
        array = np.array(array, dtype=object)
    if tensors.dtype_name(array) != "DT_STRING":
        return _serialized(tensors.to_proto(array)), b""
    texts = tensors.strings(array)
    packed = b"".join((*(varint(len(text)) for text in texts), *texts))
    return _head("DT_STRING", array.shape) + (length_delimited(_CONTENT, packed) if packed else b""), b""


@lru_cache(maxsize=1024)
def _head(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the serialized dtype and shape; cached, because requests repeat few of them."""
    proto = messages.TensorProto(dtype=tensors.dtype_number(dtype))
    proto.tensor_shape.SetInParent()
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return _serialized(proto)


def _serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
