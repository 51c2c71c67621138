"""Signatures: the inputs and outputs of a model, read from its files or a server, compared before a request is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from tfs_deploy.errors import CorruptModel, InvalidInput, NotFound
from tfs_deploy.serving.codec import messages, tensors

DEFAULT_SIGNATURE = "serving_default"
# Written by TensorFlow 2 into every SavedModel to run its initialisers; not for clients.
INTERNAL_SIGNATURES = frozenset({"__saved_model_init_op"})

# A made-up request has this size along a dimension that the signature leaves open beyond the batch.
_OPEN_DIMENSION = 32

Shape = tuple[int | None, ...] | None
Inputs = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: TensorFlow's dtype name, the shape (None = any), the tensor's name in the graph."""

    dtype: str
    shape: tuple[int | None, ...] | None
    name: str = ""

    def __str__(self) -> str:
        return f"{self.dtype} {shape_text(self.shape)}"


@dataclass(frozen=True, slots=True)
class Signature:
    """One SignatureDef; `optional` names the inputs that the model has a default for."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    method_name: str
    optional: tuple[str, ...] = ()


def shape_text(shape: Shape) -> str:
    """Return `shape` as text for messages: ``[?, 224, 3]``, or ``of any rank``."""
    if shape is None:
        return "of any rank"
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def from_signature_def(signature_def: Any) -> Signature:
    """Return the Signature in a SignatureDef message."""
    return Signature(
        inputs={alias: _spec(info) for alias, info in sorted(signature_def.inputs.items())},
        outputs={alias: _spec(info) for alias, info in sorted(signature_def.outputs.items())},
        method_name=signature_def.method_name,
        optional=tuple(sorted(signature_def.defaults)),
    )


def public_signatures(signature_defs: Mapping[str, Any]) -> dict[str, Signature]:
    """Return the signatures that clients may call, by name, in alphabetical order."""
    return {
        name: from_signature_def(signature_defs[name])
        for name in sorted(signature_defs)
        if name not in INTERNAL_SIGNATURES
    }


def signatures_of_saved_model(directory: Path, tags: Iterable[str] = ("serve",)) -> dict[str, Signature]:
    """Return the signatures of the SavedModel in `directory`, from its MetaGraph with exactly `tags`."""
    saved_model = _read_saved_model(directory)
    required = set(tags)
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == required:
            return public_signatures(meta_graph.signature_def)
    available = "; ".join(", ".join(sorted(graph.meta_info_def.tags)) or "(none)" for graph in saved_model.meta_graphs)
    raise CorruptModel(
        f"The SavedModel in {directory} has no graph with the tags {', '.join(sorted(required))}; "
        f"it has: {available or 'none'}.",
        "Export it with the tag 'serve', which TF Serving loads.",
    )


def check_inputs(signature: Signature, inputs: Mapping[str, npt.NDArray[Any]], *, where: str) -> None:
    """Raise InvalidInput unless `inputs` fit `signature` in names, dtypes, ranks and known dimensions.

    A stock model server does not compare shapes, and one input of a wrong rank can end its process (contract 20.1).
    """
    missing = sorted(signature.inputs.keys() - inputs.keys() - set(signature.optional))
    surplus = sorted(inputs.keys() - signature.inputs.keys())
    if missing or surplus:
        differences = (("lacks", missing), ("adds", surplus))
        parts = [f"{verb} {', '.join(map(repr, names))}" for verb, names in differences if names]
        raise InvalidInput(
            f"The input of {where} {' and '.join(parts)}.",
            f"Give exactly: {_listing(signature.inputs)}.",
        )
    for alias, array in inputs.items():
        _check_input(alias, signature.inputs[alias], array, where)


def made_up_inputs(signature: Signature) -> Inputs | None:
    """Return zeros (strings: empty) of batch 1, other open dimensions 32; None for a dtype that cannot be sent."""
    if any(spec.dtype not in tensors.NUMPY_BY_NAME for spec in signature.inputs.values()):
        return None
    return {alias: _zeros(spec) for alias, spec in signature.inputs.items()}


def compatible(expected: Mapping[str, Signature], served: Mapping[str, Signature]) -> tuple[str, ...]:
    """Return one sentence per reason why a client of `expected` would not work with `served`; none = compatible.

    `served` may add signatures, outputs and optional inputs and accept more shapes; graph tensor names do not matter.
    """
    differences: list[str] = []
    for name, wanted in sorted(expected.items()):
        if name not in served:
            differences.append(f"The signature {name!r} is gone; there are: {', '.join(sorted(served)) or 'none'}.")
            continue
        differences.extend(_signature_differences(name, wanted, served[name]))
    return tuple(differences)


def covers(wide: Shape, narrow: Shape) -> bool:
    """Tell whether every array of shape `narrow` also has the shape `wide`."""
    if wide is None:
        return True
    if narrow is None or len(wide) != len(narrow):
        return False
    return all(outer is None or outer == inner for outer, inner in zip(wide, narrow, strict=True))


def _zeros(spec: TensorSpec) -> npt.NDArray[Any]:
    dimensions = spec.shape if spec.shape is not None else (None,)
    shape = tuple(
        size if size is not None else (1 if axis == 0 else _OPEN_DIMENSION) for axis, size in enumerate(dimensions)
    )
    if spec.dtype == "DT_STRING":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, dtype=tensors.NUMPY_BY_NAME[spec.dtype])


def _check_input(alias: str, spec: TensorSpec, array: npt.NDArray[Any], where: str) -> None:
    given = tensors.dtype_name(array)
    if given != spec.dtype:
        wanted = tensors.NUMPY_BY_NAME.get(spec.dtype)
        raise InvalidInput(
            f"The input {alias!r} of {where} must be {spec.dtype}, but {given} (numpy {array.dtype}) was given.",
            f"Convert it to numpy's {wanted} first; a model server never casts."
            if wanted is not None
            else f"Inputs of dtype {spec.dtype} cannot be sent; use another signature.",
        )
    if spec.shape is None:
        return
    if len(array.shape) != len(spec.shape):
        raise InvalidInput(
            f"The input {alias!r} of {where} must have {len(spec.shape)} dimensions {shape_text(spec.shape)}, "
            f"but an array of {len(array.shape)} dimensions {shape_text(array.shape)} was given.",
            "Reshape it; the first dimension is usually the batch.",
        )
    for axis, (size, wanted_size) in enumerate(zip(array.shape, spec.shape, strict=True)):
        if wanted_size is not None and size != wanted_size:
            raise InvalidInput(
                f"The input {alias!r} of {where} must have the shape {shape_text(spec.shape)}, "
                f"but dimension {axis} is {size} instead of {wanted_size} in {shape_text(array.shape)}.",
                "Reshape or resize it to what the signature says.",
            )


def _signature_differences(name: str, wanted: Signature, served: Signature) -> list[str]:
    differences: list[str] = []
    if wanted.method_name != served.method_name:
        differences.append(
            f"The signature {name!r} has the method {served.method_name!r} instead of {wanted.method_name!r}."
        )
    for alias in sorted(wanted.inputs.keys() - served.inputs.keys()):
        differences.append(f"The signature {name!r} no longer takes the input {alias!r}.")
    for alias in sorted(served.inputs.keys() - set(served.optional) - (wanted.inputs.keys() - set(wanted.optional))):
        differences.append(f"The signature {name!r} now needs the input {alias!r}.")
    for alias in sorted(wanted.inputs.keys() & served.inputs.keys()):
        old, new = wanted.inputs[alias], served.inputs[alias]
        if old.dtype != new.dtype or not covers(new.shape, old.shape):
            differences.append(f"The input {alias!r} of signature {name!r} is {new} instead of {old}.")
    for alias in sorted(wanted.outputs.keys() - served.outputs.keys()):
        differences.append(f"The signature {name!r} no longer gives the output {alias!r}.")
    for alias in sorted(wanted.outputs.keys() & served.outputs.keys()):
        old, new = wanted.outputs[alias], served.outputs[alias]
        if old.dtype != new.dtype or not covers(old.shape, new.shape):
            differences.append(f"The output {alias!r} of signature {name!r} is {new} instead of {old}.")
    return differences


def _spec(info: Any) -> TensorSpec:
    number = info.dtype
    shape: tuple[int | None, ...] | None = None
    # An empty shape is a scalar; a missing one (old exporters) means any shape.
    if info.HasField("tensor_shape") and not info.tensor_shape.unknown_rank:
        shape = tuple(dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim)
    return TensorSpec(
        dtype=messages.enum_names("tensorflow.DataType").get(number, f"DT_{number}"), shape=shape, name=info.name
    )


def _listing(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{alias} ({spec})" for alias, spec in sorted(specs.items())) or "no inputs"


def _read_saved_model(directory: Path) -> Any:
    binary, text = directory / "saved_model.pb", directory / "saved_model.pbtxt"
    if binary.is_file():
        try:
            return messages.SavedModel.FromString(binary.read_bytes())
        except DecodeError as error:
            raise CorruptModel(f"{binary} is not a SavedModel: {error}.", "Export the model again.") from error
    if text.is_file():
        from google.protobuf import text_format  # rarely needed

        try:
            pool = messages.private_pool()
            return text_format.Parse(text.read_text(), messages.SavedModel(), descriptor_pool=pool)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise CorruptModel(f"{text} is not a SavedModel: {error}.", "Export the model again.") from error
    raise NotFound(
        f"There is no saved_model.pb in {directory}.",
        "Name the directory of one SavedModel (the numbered one), not its parent.",
    )


def as_inputs(inputs: Mapping[str, object]) -> dict[str, npt.NDArray[Any]]:
    """Return `inputs` as arrays without changing a dtype; raise InvalidInput for names that are not text."""
    if not isinstance(inputs, Mapping):
        raise InvalidInput(f"The inputs are a {type(inputs).__name__}.", "Give a dict of arrays by input name.")
    arrays: dict[str, npt.NDArray[Any]] = {}
    for alias, value in inputs.items():
        if not isinstance(alias, str):
            raise InvalidInput(f"The input name {alias!r} is not a str.", "Use the aliases of the signature.")
        arrays[alias] = tensors.as_array(value)
    return arrays
