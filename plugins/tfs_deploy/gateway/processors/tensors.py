"""Plain tensors: JSON values in the shape that the model takes, and its outputs as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.processors.nested import dtype_called, to_array, to_json
from tfs_deploy.gateway.processors.protocol import Array, Arrays, BadAnswer, BadItem, Blob, output_named, split_notes
from tfs_deploy.serving.signature import Signature, shape_text


class TensorInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input: its dtype, and the shape of one item (null = any size), i.e. without the batch dimension."""

    dtype: str
    shape: tuple[int | None, ...] | None = None


class TensorOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`inputs` by name, those of the model's signature if there are none; `outputs`: those to answer with, all if
    empty; `blobs`: strings may be uploads and URLs.
    """

    inputs: dict[str, TensorInput] = {}
    outputs: tuple[str, ...] = ()
    batches: bool = True
    blobs: bool = False


class TensorProcessor:
    """One item is one value (a single input) or an object with one value per input; so is one answer."""

    Options = TensorOptions
    reentrant = True

    def __init__(self, options: TensorOptions) -> None:
        self._options = options
        self.needs_signature = not options.inputs
        self.batches = options.batches
        self.takes_blobs = options.blobs
        self._dtypes = {name: dtype_called(given.dtype) for name, given in options.inputs.items()}
        self._shapes = {name: given.shape for name, given in options.inputs.items()}

    def with_signature(self, signature: Signature) -> TensorProcessor:
        """Return the processor that takes the inputs of `signature`; this one if its options name them."""
        if self._options.inputs:
            return self
        inputs = {
            name: TensorInput(spec.dtype, None if spec.shape is None else spec.shape[1:])
            for name, spec in signature.inputs.items()
            if name not in signature.optional
        }
        return TensorProcessor(msgspec.structs.replace(self._options, inputs=inputs))

    def preprocess(self, items: Sequence[Any]) -> dict[str, Array]:
        """Return one array per input, of its dtype, the items stacked along axis 0."""
        if not self._dtypes:
            raise InvalidInput("Nothing says which inputs the model has.", "Set the processor's option inputs.")
        rows = [self._row(index, item) for index, item in enumerate(items)]
        return {name: _stacked(name, [row[name] for row in rows]) for name in self._dtypes}

    def postprocess(self, outputs: Arrays) -> list[Any]:
        """Return each row as nested lists: the value of a single output, else an object by output name."""
        return rows_as_json(outputs, self._options.outputs)

    def _row(self, index: int, item: Any) -> dict[str, Array]:
        values = self._by_name(index, item)
        row = {name: to_array(index, values[name], dtype, name) for name, dtype in self._dtypes.items()}
        for name, array in row.items():
            wanted = self._shapes[name]
            if wanted is not None and not _fits(array.shape, wanted):
                raise BadItem(
                    index, f"has the shape {list(array.shape)} in {name!r} where {shape_text(wanted)} is expected"
                )
        return row

    def _by_name(self, index: int, item: Any) -> Mapping[str, Any]:
        if isinstance(item, dict) and item.keys() == self._dtypes.keys():
            return item
        if len(self._dtypes) == 1 and (not isinstance(item, dict) or item.keys() == {"b64"}):
            return {next(iter(self._dtypes)): item}
        wanted = ", ".join(map(repr, self._dtypes))
        if isinstance(item, Blob):
            raise BadItem(index, f"is a file where an object with {wanted} is expected")
        raise BadItem(index, f"is not an object with exactly {wanted}")


def rows_as_json(outputs: Arrays, names: Sequence[str] = ()) -> list[Any]:
    """Return the rows of `outputs` (of those `names`, where given) as JSON values; raise BadAnswer."""
    given = {name: output_named(outputs, name) for name in names} if names else split_notes(outputs)[0]
    counts = {array.shape[0] if array.ndim else -1 for array in given.values()}
    if len(counts) != 1 or -1 in counts:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in sorted(given.items()))
        raise BadAnswer(
            f"The outputs of the model do not have one row per item: {shapes or 'there are none'}.",
            "Name the outputs that do in the processor's option 'outputs'.",
        )
    # A name that ends like this always holds bytes (TF Serving's REST API has the same rule).
    columns = {name: to_json(array, always_b64=name.endswith("_bytes")) for name, array in given.items()}
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


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        size is None or size == given for given, size in zip(shape, wanted, strict=True)
    )
