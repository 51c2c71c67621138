"""TensorFlow 1 graph checkpoints of ``tf.compat.v1.train.Saver``, with their ``.meta`` file or a builder.

Runs in the exporting process.

The builder takes no arguments, builds the inference graph in the default graph and returns a pair of dicts
``({input name: placeholder}, {output name: tensor})``. Without one the ``.meta`` file is imported, and
`ExportOptions.input_tensors` and `output_tensors` name the tensors in it.

Only the part of the graph on which the outputs depend is exported, without optimizer, summaries and input pipeline of
a training graph, and only its variables must be in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfs_deploy.errors import ExportFailed, InvalidInput
from tfs_deploy.savedmodel.export.graph_model import (
    InferenceGraph,
    check_tensors,
    inference_graph,
    named_tensors,
    write_inference_graph,
)
from tfs_deploy.savedmodel.export.signature import call_function, error_summary
from tfs_deploy.savedmodel.source import CheckpointSource, ExportOptions

_AVERAGE = "/ExponentialMovingAverage"


def write_graph_model(source: CheckpointSource, options: ExportOptions, directory: str) -> None:
    """Restore the checkpoint into the inference graph and write both as a SavedModel."""
    import tensorflow as tf

    with tf.Graph().as_default():
        inputs, outputs = _built(source, options) if source.builder else _imported(source, options)
        inference = inference_graph(inputs, outputs, options)
    with inference.graph.as_default(), tf.compat.v1.Session(graph=inference.graph) as session:
        _restore(session, inference, source)
        write_inference_graph(session, inference, options, directory)


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """The content of the checkpoint file: variable name to shape."""

    path: str
    shapes: Mapping[str, list[int]]


def _built(source: CheckpointSource, options: ExportOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    if options.input_tensors or options.output_tensors:
        raise InvalidInput(
            "A builder returns its inputs and outputs by name, so graph tensor names are not used.",
            "Leave input_tensors and output_tensors out, or leave the builder out.",
        )
    built = call_function(source.builder, "builder")
    if not (isinstance(built, tuple) and len(built) == 2 and all(isinstance(part, Mapping) and part for part in built)):
        raise ExportFailed(
            f"The builder {source.builder!r} returned a {type(built).__name__} instead of a pair of dicts.",
            "Return ({input name: placeholder}, {output name: tensor}).",
        )
    inputs, outputs = dict(built[0]), dict(built[1])
    check_tensors(inputs, "input")
    return inputs, outputs


def _imported(source: CheckpointSource, options: ExportOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    import tensorflow as tf

    meta = source.path + ".meta"
    if not Path(meta).is_file():
        raise InvalidInput(f"There is no graph {meta!r} beside the checkpoint.", "Name a builder: module:function.")
    try:
        tf.compat.v1.train.import_meta_graph(meta, clear_devices=True)
    except Exception as error:
        raise ExportFailed(
            f"The graph {meta!r} cannot be imported: {error_summary(error)}.",
            "Name a builder instead: module:function.",
        ) from error
    return named_tensors(tf.compat.v1.get_default_graph(), options, meta)


def _restore(session: Any, inference: InferenceGraph, source: CheckpointSource) -> None:
    import tensorflow as tf

    if not inference.variables:
        return
    try:
        shapes = tf.train.load_checkpoint(source.path).get_variable_to_shape_map()
    except Exception as error:
        raise ExportFailed(
            f"The checkpoint {source.path!r} cannot be read: {error_summary(error)}.", "Copy it again as a whole."
        ) from error
    checkpoint = _Checkpoint(source.path, shapes)
    wanted = _names_in_checkpoint(inference, source, checkpoint)
    _check_presence(wanted, checkpoint)
    try:
        tf.compat.v1.train.Saver(wanted).restore(session, source.path)
    except Exception as error:
        raise ExportFailed(
            f"The checkpoint {source.path!r} cannot be restored: {error_summary(error)}.", "Copy it again as a whole."
        ) from error


def _names_in_checkpoint(
    inference: InferenceGraph, source: CheckpointSource, checkpoint: _Checkpoint
) -> dict[str, Any]:
    """Return name in the checkpoint to variable, or to the list of a partitioned variable's parts."""
    wanted: dict[str, Any] = {}
    averaged = 0
    for variable in inference.variables:
        part = variable._get_save_slice_info()  # partitioned variables are saved under their common name
        name = part.full_name if part else variable.op.name
        if source.moving_average_decay is not None and _is_averaged(variable, name, source, checkpoint):
            name += _AVERAGE
            averaged += 1
        if part:
            wanted.setdefault(name, []).append(variable)
        else:
            wanted[name] = variable
    if source.moving_average_decay is not None and not averaged:
        raise ExportFailed(
            f"The checkpoint {source.path!r} holds no moving average of any of {len(inference.variables)} variables.",
            "Leave moving_average_decay out, or name a checkpoint that was saved with moving averages.",
        )
    return wanted


def _is_averaged(variable: Any, name: str, source: CheckpointSource, checkpoint: _Checkpoint) -> bool:
    # A builder's graph is restored like ExponentialMovingAverage.variables_to_restore(): trainable variables by their
    # averages. Not all variables of a .meta graph may have averages, so those in the checkpoint count.
    return variable.trainable if source.builder else name + _AVERAGE in checkpoint.shapes


def _check_presence(wanted: Mapping[str, Any], checkpoint: _Checkpoint) -> None:
    missing = sorted(name for name in wanted if name not in checkpoint.shapes)
    if missing:
        listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ExportFailed(
            f"{len(missing)} of {len(wanted)} variables are missing in the checkpoint {checkpoint.path!r}: {listed}.",
            "Build the graph with the variable names it was trained with, or name the right checkpoint.",
        )
    for name, variable in sorted(wanted.items()):
        if isinstance(variable, list) or variable.shape.is_compatible_with(checkpoint.shapes[name]):
            continue
        raise ExportFailed(
            f"The variable {name!r} has shape {checkpoint.shapes[name]} in the checkpoint {checkpoint.path!r}, but "
            f"{variable.shape.as_list()} in the graph.",
            "Build the graph with the sizes it was trained with.",
        )
