"""Run a finished SavedModel on samples or on zeros, as TF Serving will: a session on its signature.

Runs in the exporting process. The inputs become warm-up requests; inputs and outputs become golden requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfs_deploy.errors import ExportFailed, InvalidInput
from tfs_deploy.savedmodel.export.arrays import Array, ArrayFile
from tfs_deploy.savedmodel.export.signature import error_summary
from tfs_deploy.savedmodel.source import ExportOptions

# Unknown sizes other than the batch: images are the usual case, and 64 survives five halvings and an 8x8 crop.
_SYNTHETIC_SIZES = (64, 1)
# A larger input of zeros would make the warm-up file larger than many models.
_SYNTHETIC_BYTES = 16 << 20
_SAMPLES = "Give one array per input, one row per sample, in exactly the input's dtype: numpy.savez(path, NAME=...)."

_INIT_SIGNATURE = "__saved_model_init_op"
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")

Inputs = dict[str, Array]
Run = Callable[[Inputs], Inputs]


def record_requests(directory: str, options: ExportOptions, samples: Inputs, arrays: ArrayFile) -> dict[str, Any]:
    """Run the SavedModel and return the index of the requests to write, with warnings.

    A model that fails on zeros gets a warning; raise ExportFailed for one that fails on its samples.
    """
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = _open_model(session, Path(directory))
        definition = meta_graph.signature_def[options.signature]
        fetches = {name: info.name for name, info in definition.outputs.items()}

        def run(inputs: Inputs) -> Inputs:
            feed = {definition.inputs[name].name: array for name, array in inputs.items()}
            return {name: np.asarray(array) for name, array in session.run(fetches, feed).items()}

        if not samples:
            return _record_synthetic(definition.inputs, run, options, arrays)
        return _record_samples(definition.inputs, samples, run, options, arrays)


def _open_model(session: Any, directory: Path) -> Any:
    """Load a SavedModel in the steps of TensorFlow's C++ loader, which TF Serving uses; return its MetaGraphDef.

    ``tf.compat.v1.saved_model.load`` skips the restore when the graph's collections name no variables, as in every
    TensorFlow 2 export.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        saved_model = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
        meta_graph = next(graph for graph in saved_model.meta_graphs if set(graph.meta_info_def.tags) == {"serve"})
        tf.compat.v1.train.import_meta_graph(meta_graph, clear_devices=True)
        _restore(session, meta_graph, directory)
    except Exception as error:
        raise ExportFailed(
            f"TensorFlow cannot load the SavedModel: {error_summary(error)}.", "Check that its files are complete."
        ) from error
    return meta_graph


def _restore(session: Any, meta_graph: Any, directory: Path) -> None:
    assets = {asset.tensor_info.name: str(directory / "assets" / asset.filename) for asset in meta_graph.asset_file_def}
    saver = meta_graph.saver_def
    if saver.restore_op_name and (directory / "variables" / "variables.index").is_file():
        prefix = str(directory / "variables" / "variables")
        session.run(saver.restore_op_name, {**assets, saver.filename_tensor_name: prefix})
    initialiser = _initialiser(meta_graph)
    if initialiser:
        session.run(session.graph.get_operation_by_name(initialiser), assets)


def _initialiser(meta_graph: Any) -> str:
    if _INIT_SIGNATURE in meta_graph.signature_def:
        outputs = meta_graph.signature_def[_INIT_SIGNATURE].outputs
        return next((str(info.name).split(":")[0] for info in outputs.values()), "")
    for collection in _INIT_COLLECTIONS:
        if collection in meta_graph.collection_def:
            names = meta_graph.collection_def[collection].node_list.value
            return str(names[0]).split(":")[0] if names else ""
    return ""


def _record_samples(
    specs: Mapping[str, Any], samples: Inputs, run: Run, options: ExportOptions, arrays: ArrayFile
) -> dict[str, Any]:
    prepared = {name: _checked(name, info, samples) for name, info in sorted(specs.items())}
    surplus = sorted(samples.keys() - specs.keys())
    if surplus:
        raise InvalidInput(f"The samples hold {surplus}, but the inputs are {sorted(specs)}.", _SAMPLES)
    rows = min(len(array) for array in prepared.values())
    fixed = _fixed_batch(specs)
    warmup = (
        [
            _rows(prepared, specs, start, fixed or 1)
            for start in range(min(options.warmup, max(1, rows // (fixed or 1))))
        ]
        if options.warmup
        else []
    )
    golden, start = [], 0
    for number in range(1, options.golden + 1):
        size = fixed or min(number, rows)
        golden.append(_rows(prepared, specs, start, size))
        start += size
    try:
        return {
            "warmup": [arrays.add(inputs) for inputs in warmup if run(inputs)],
            "golden": [{"inputs": arrays.add(inputs), "outputs": arrays.add(run(inputs))} for inputs in golden],
            "warnings": [],
        }
    except Exception as error:
        raise ExportFailed(
            f"The model fails on the samples: {error_summary(error)}.",
            "Give samples that the model accepts, or export it again.",
        ) from error


def _checked(name: str, info: Any, samples: Inputs) -> Array:
    import tensorflow as tf

    if name not in samples:
        raise InvalidInput(f"The samples have no array for the input {name!r}, only {sorted(samples)}.", _SAMPLES)
    array, dtype = samples[name], tf.as_dtype(info.dtype)
    if dtype == tf.string and array.dtype.kind in "SUO":
        array = array.astype(object)
    elif array.dtype != dtype.as_numpy_dtype:
        raise InvalidInput(f"The samples of the input {name!r} are {array.dtype.name}, not {dtype.name}.", _SAMPLES)
    shape = _shape(info)
    # An input of rank 0 takes the value of one row.
    if shape is None or not shape:
        return array
    known = all(size in (None, given) for size, given in zip(shape[1:], array.shape[1:], strict=False))
    if array.ndim != len(shape) or not known:
        raise InvalidInput(
            f"The samples of the input {name!r} have the shape {list(array.shape)}, but it takes {shape}.", _SAMPLES
        )
    return array


def _rows(samples: Inputs, specs: Mapping[str, Any], start: int, count: int) -> Inputs:
    """Return `count` rows from `start` on, starting again at the end of the samples."""
    batch = {}
    for name, array in samples.items():
        if _shape(specs[name]) == []:
            batch[name] = array[start % len(array)]
        else:
            batch[name] = np.take(array, range(start, start + count), axis=0, mode="wrap")
    return batch


def _fixed_batch(specs: Mapping[str, Any]) -> int | None:
    """Return the batch size that the signature demands, if it demands one."""
    sizes = [shape[0] for info in specs.values() if (shape := _shape(info))]
    return next((size for size in sizes if size is not None), None)


def _record_synthetic(specs: Mapping[str, Any], run: Run, options: ExportOptions, arrays: ArrayFile) -> dict[str, Any]:
    result: dict[str, Any] = {"warmup": [], "golden": [], "warnings": []}
    problem = ""
    for size in _SYNTHETIC_SIZES:
        try:
            inputs = {name: _zeros(info, size) for name, info in sorted(specs.items())}
            run(inputs)
        # A failure on zeros says nothing about real inputs.
        except Exception as error:
            problem = problem or error_summary(error)
            continue
        return {**result, "warmup": [arrays.add(inputs)]}
    warning = f"No warm-up request was written: the model fails on inputs of zeros ({problem}). Give samples."
    return {**result, "warnings": [warning]}


def _zeros(info: Any, size: int) -> Array:
    import tensorflow as tf

    shape = _shape(info)
    if shape is None:
        raise ValueError("an input has no known rank")
    sizes = [known if known is not None else (size if place else 1) for place, known in enumerate(shape)]
    dtype = tf.as_dtype(info.dtype)
    if dtype == tf.string:
        return np.full(sizes, b"", object)
    if int(np.prod(sizes, dtype=object)) * dtype.size > _SYNTHETIC_BYTES:
        raise ValueError("the inputs would be too large")
    return np.zeros(sizes, dtype.as_numpy_dtype)


def _shape(info: Any) -> list[int | None] | None:
    if info.tensor_shape.unknown_rank:
        return None
    return [dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim]
