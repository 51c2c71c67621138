"""Predict over REST: rows (``instances``) or columns (``inputs``), ``predictions`` or ``outputs`` (contract 8)."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfs_deploy.modelserver.graph.servable import Array
from tfs_deploy.modelserver.rest.json_reader import parse
from tfs_deploy.modelserver.rest.json_writer import block, decimals, decoded, encoded, error_text, quoted
from tfs_deploy.modelserver.rest.tensors import Shape, TensorFiller, is_base64
from tfs_deploy.modelserver.status import StatusError, invalid_argument
from tfs_deploy.serving.codec import tensors
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE

_INSTANCES, _INPUTS = "instances", "inputs"
_BYTES_SUFFIX = "_bytes"
_INTEGER_DTYPES = ("DT_INT8", "DT_UINT8", "DT_INT16", "DT_INT32", "DT_INT64", "DT_UINT32", "DT_UINT64")


def read_document(body: bytes) -> dict[str, Any]:
    """Return the object in a request's body."""
    document = parse(body)
    if not isinstance(document, dict):
        raise format_error(document, "Is not object")
    return document


def signature_name(document: dict[str, Any]) -> str:
    """Return ``signature_name``, or an empty string."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise format_error(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return proto_text(name)


def proto_text(text: str) -> str:
    """Return `text` with characters that a protobuf string cannot hold replaced."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def format_error(value: Any, problem: str) -> StatusError:
    """Return the error that quotes a value, or the whole document, with its problem."""
    return invalid_argument(f"JSON Value: {error_text(value)} {problem}")


def fill_request(request: Any, document: dict[str, Any], servable: Any) -> bool:
    """Put the tensors of `document` into a PredictRequest; return whether they are rows."""
    key = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if key not in servable.signature_defs.signature_def:
        raise invalid_argument(f'Serving signature name: "{key}" not found in signature def')
    dtypes = {alias: info.dtype for alias, info in sorted(servable.signature_defs.signature_def[key].inputs.items())}
    if not dtypes:
        name = request.model_spec.signature_name or "DEFAULT"
        raise invalid_argument(f"Failed to get input map for signature: {name}")
    rows = _INSTANCES in document
    if rows:
        _check_rows(document)
        filled = _of_rows(document[_INSTANCES], dtypes)
    elif _INPUTS in document:
        filled = _of_columns(document[_INPUTS], dtypes)
    else:
        raise invalid_argument(f"Missing '{_INPUTS}' or '{_INSTANCES}' key")
    for alias, (filler, shape) in filled.items():
        try:
            request.inputs[alias].CopyFrom(tensors.to_proto(filler.array(shape)))
        except ValueError as error:  # more dimensions than NumPy allows
            raise invalid_argument(f"tensor parsing error: {alias}") from error
    return rows


def _check_rows(document: dict[str, Any]) -> None:
    if _INPUTS in document:
        raise format_error(
            document,
            f"Not formatted correctly expecting only one of '{_INPUTS}' or '{_INSTANCES}' keys to exist ",
        )
    rows = document[_INSTANCES]
    if not isinstance(rows, list):
        raise format_error(document, f"Excepting '{_INSTANCES}' to be an list/array")
    if not rows:
        raise format_error(document, f"No values in '{_INSTANCES}' array")


class _Rows:
    """The tensors to which rows are added one by one; the first row determines the shape."""

    def __init__(self, dtypes: Mapping[str, int]) -> None:
        self._dtypes = dtypes
        self.fillers: dict[str, TensorFiller] = {}
        self._first: dict[str, tuple[int, Shape]] = {}

    def add(self, alias: str, value: Any) -> None:
        if alias not in self._dtypes:
            raise invalid_argument(f"JSON object: does not have named input: {alias}")
        if alias not in self.fillers:
            self.fillers[alias] = TensorFiller(self._dtypes[alias])
        size, shape = self.fillers[alias].add(value)
        first_size, first_shape = self._first.setdefault(alias, (size, shape))
        if size != first_size:
            raise invalid_argument(f"Expecting tensor size: {first_size} but got: {size}")
        if shape != first_shape:
            raise invalid_argument(f"Expecting shape {_shape_text(first_shape)} but got: {_shape_text(shape)}")

    def finished(self, count: int) -> dict[str, tuple[TensorFiller, Shape]]:
        return {alias: (filler, (count, *self._first[alias][1])) for alias, filler in self.fillers.items()}


def _of_rows(rows: list[Any], dtypes: Mapping[str, int]) -> dict[str, tuple[TensorFiller, Shape]]:
    if len(dtypes) > 1 and not isinstance(rows[0], dict):
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    filling = _Rows(dtypes)
    named = _is_object(rows[0])
    only = next(iter(dtypes))
    for index, row in enumerate(rows):
        if named != _is_object(row):
            wanted, got = ("object", "list") if named else ("value/list", "object")
            raise invalid_argument(f"Expecting {wanted} but got {got} at item {index} of input list")
        if named:
            _add_named(filling, index, row, dtypes)
            continue
        try:
            filling.add(only, row)
        except StatusError as error:
            raise invalid_argument(f"Failed to process element: {index} of 'instances' list. Error: {error}") from error
    return filling.finished(len(rows))


def _add_named(filling: _Rows, index: int, row: dict[str, Any], dtypes: Mapping[str, int]) -> None:
    for alias, value in row.items():
        try:
            filling.add(alias, value)
        except StatusError as error:
            raise invalid_argument(
                f"Failed to process element: {index} key: {alias} of 'instances' list. Error: {error}"
            ) from error
    if row.keys() != dtypes.keys():
        raise invalid_argument(
            f"Failed to process element: {index} of 'instances' list. JSON object: {error_text(row)} "
            f"keys must be equal to: {','.join(dtypes)}"
        )


def _of_columns(value: Any, dtypes: Mapping[str, int]) -> dict[str, tuple[TensorFiller, Shape]]:
    if not _is_object(value):
        if len(dtypes) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        value = {next(iter(dtypes)): value}
    filled = {}
    for alias, dtype in dtypes.items():
        if alias not in value:
            raise invalid_argument(f"Missing named input: {alias} in 'inputs' object.")
        filler = TensorFiller(dtype)
        _, shape = filler.add(value[alias])
        filled[alias] = filler, shape
    return filled


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def rows_body(outputs: Mapping[str, Array]) -> bytes:
    """Return the answer to rows: one value per row, or one object per row for several outputs."""
    arrays = _as_arrays(outputs)
    batch = -1
    for alias, array in arrays.items():
        if not array.ndim:
            raise invalid_argument(f"Tensor name: {alias} has no shape information ")
        if batch not in (-1, len(array)):
            raise invalid_argument(f"Tensor name: {alias} has inconsistent batch size: {len(array)} expecting: {batch}")
        batch = len(array)
    if len(arrays) == 1:
        ((alias, array),) = arrays.items()
        values = ", ".join(_row_values(alias, array, 2))
        return encoded(f'{{\n    "predictions": [{values}\n    ]\n}}' if batch else _object("predictions", "[]"))
    columns = [[f"{quoted(alias)}: {text}" for text in _row_values(alias, array, 3)] for alias, array in arrays.items()]
    objects = [block(members, 2, "{}") for members in zip(*columns, strict=True)]
    return encoded(_object("predictions", block(objects, 1, "[]")))


def columns_body(outputs: Mapping[str, Array]) -> bytes:
    """Return the answer to columns: whole tensors, by name if there are several."""
    arrays = _as_arrays(outputs)
    if len(arrays) == 1:
        ((alias, array),) = arrays.items()
        return encoded(_object("outputs", _whole(alias, array, 1)))
    members = [f"{quoted(alias)}: {_whole(alias, array, 2)}" for alias, array in arrays.items()]
    return encoded(_object("outputs", block(members, 1, "{}")))


def _as_arrays(outputs: Mapping[str, Array]) -> dict[str, Array]:
    if not outputs:
        raise invalid_argument("Cannot convert empty tensor map to JSON")
    return {
        # A scalar string is bytes, in which NumPy would drop trailing NULs.
        alias: np.array(value, dtype=object) if isinstance(value, bytes) else np.asarray(value)
        for alias, value in sorted(outputs.items())
    }


def _object(key: str, value: str) -> str:
    return block([f"{quoted(key)}: {value}"], 0, "{}")


def _row_values(alias: str, array: Array, level: int) -> list[str]:
    """Return the value of each row, lists on one line; `level` is the value's indentation."""
    texts = _texts(alias, array, level + array.ndim - 1)
    for axis in range(array.ndim - 1, 0, -1):
        size = array.shape[axis]
        texts = [f"[{', '.join(texts[at * size : (at + 1) * size])}]" for at in range(math.prod(array.shape[:axis]))]
    return texts


def _whole(alias: str, array: Array, level: int) -> str:
    """Return a tensor with each element on its own line."""
    texts = _texts(alias, array, level + array.ndim)
    for axis in range(array.ndim - 1, -1, -1):
        size = array.shape[axis]
        texts = [
            block(texts[at * size : (at + 1) * size], level + axis, "[]") for at in range(math.prod(array.shape[:axis]))
        ]
    return texts[0]


def _texts(alias: str, array: Array, level: int) -> list[str]:
    """Return every element in row-major order; text whose name ends in ``_bytes`` as base64 objects at `level`."""
    flat = array.reshape(-1)
    dtype = tensors.dtype_name(array)
    if dtype in ("DT_FLOAT", "DT_DOUBLE"):
        return decimals(flat)
    if dtype in _INTEGER_DTYPES:
        return [str(value) for value in flat.tolist()]
    if dtype == "DT_BOOL":
        return ["true" if value else "false" for value in flat.tolist()]
    if dtype == "DT_STRING" and alias.endswith(_BYTES_SUFFIX):
        return [block([f'"b64": "{base64.b64encode(item).decode()}"'], level, "{}") for item in tensors.strings(flat)]
    if dtype == "DT_STRING":
        return [quoted(decoded(item)) for item in tensors.strings(flat)]
    if not flat.size:
        return []
    name = dtype.removeprefix("DT_").lower()
    raise invalid_argument(f"Failed to write JSON value for tensor type: {name}")


def _shape_text(shape: Shape) -> str:
    return f"[{','.join(map(str, shape))}]"
