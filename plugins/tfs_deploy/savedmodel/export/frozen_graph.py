"""Frozen graphs of TensorFlow 1: one ``.pb`` file with a GraphDef whose variables have become constants.

Runs in the exporting process. `ExportOptions.input_tensors` and `output_tensors` name the tensors in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfs_deploy.errors import ExportFailed, InvalidInput
from tfs_deploy.savedmodel.export.graph_model import inference_graph, named_tensors, write_inference_graph
from tfs_deploy.savedmodel.export.signature import error_summary
from tfs_deploy.savedmodel.source import CheckpointSource, ExportOptions

_VARIABLES = frozenset({"Variable", "VariableV2", "VarHandleOp"})
_TABLE_INITIALIZERS = ("InitializeTable", "LookupTableImport")


def write_frozen_graph(source: CheckpointSource, options: ExportOptions, directory: str) -> None:
    """Write the part of the graph on which the named outputs depend as a SavedModel."""
    import tensorflow as tf

    graph_def = _read(source.path)
    with tf.Graph().as_default() as graph:
        try:
            tf.graph_util.import_graph_def(graph_def, name="")
        except Exception as error:
            raise ExportFailed(
                f"The graph {source.path!r} cannot be imported: {error_summary(error)}.",
                "Check that TensorFlow here has the operations of the graph.",
            ) from error
        # A GraphDef has no collections, and pruning finds the initializers of lookup tables in one.
        for operation in graph.get_operations():
            if operation.type.startswith(_TABLE_INITIALIZERS):
                graph.add_to_collection(tf.compat.v1.GraphKeys.TABLE_INITIALIZERS, operation)
        inference = inference_graph(*named_tensors(graph, options, source.path), options)
    variables = sorted(op.name for op in inference.graph.get_operations() if op.type in _VARIABLES)
    if variables:
        raise ExportFailed(
            f"The graph {source.path!r} is not frozen: the outputs need the variable {variables[0]!r}.",
            "Freeze the graph, or name the prefix of its checkpoint, whose files hold the variables.",
        )
    with inference.graph.as_default(), tf.compat.v1.Session(graph=inference.graph) as session:
        write_inference_graph(session, inference, options, directory)


def _read(path: str) -> Any:
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    data = Path(path).read_bytes()
    try:
        graph_def = tf.compat.v1.GraphDef.FromString(data)
    except DecodeError:
        graph_def = tf.compat.v1.GraphDef()
    if graph_def.node and all(node.name and node.op for node in graph_def.node):
        return graph_def
    try:
        is_saved_model = bool(saved_model_pb2.SavedModel.FromString(data).meta_graphs)
    except DecodeError:
        is_saved_model = False
    if is_saved_model:
        raise InvalidInput(f"The file {path!r} holds a SavedModel.", "Name the directory, with its saved_model.pb.")
    raise InvalidInput(
        f"The file {path!r} holds neither a frozen graph nor a SavedModel.",
        "Name a binary GraphDef, or its checkpoint.",
    )
