"""TensorFlow 1 graphs: named tensors, the part of the graph for inference, and its SavedModel.

Runs in the exporting process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tfs_deploy.errors import ExportFailed, InvalidInput
from tfs_deploy.savedmodel.export.signature import input_names, output_tensors, postprocessed, signature_map
from tfs_deploy.savedmodel.source import ExportOptions


@dataclass(frozen=True, slots=True)
class InferenceGraph:
    """A graph with its inputs and outputs by name, and its variables."""

    graph: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    variables: list[Any]


def named_tensors(graph: Any, options: ExportOptions, path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs and outputs that the options name, from the `graph` of the file `path`."""
    if not options.input_tensors or not options.output_tensors:
        placeholders = sorted(op.name + ":0" for op in graph.get_operations() if op.type == "Placeholder")
        raise InvalidInput(
            f"The input and output tensors of {path!r} are not named; its placeholders are {placeholders[:10]}.",
            "Give input_tensors and output_tensors: name to graph tensor, e.g. x:0.",
        )
    return (
        {name: _tensor(graph, tensor, path) for name, tensor in options.input_tensors.items()},
        {name: _tensor(graph, tensor, path) for name, tensor in options.output_tensors.items()},
    )


def inference_graph(inputs: Mapping[str, Any], outputs: Mapping[str, Any], options: ExportOptions) -> InferenceGraph:
    """Return the part of the default graph on which `outputs` depend, named and post-processed as in `options`."""
    names = input_names(list(inputs), options.inputs) if options.inputs else list(inputs)
    renamed = output_tensors(outputs, (), options.outputs)
    postprocessed_outputs = postprocessed(renamed, options.postprocess)
    check_tensors(postprocessed_outputs, "output")
    return _prune(dict(zip(names, inputs.values(), strict=True)), postprocessed_outputs)


def _prune(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> InferenceGraph:
    """Copy the part of the default graph on which `outputs` depend; every input becomes a placeholder."""
    import tensorflow as tf

    for name, tensor in inputs.items():
        if tensor.value_index != 0:
            raise InvalidInput(
                f"The input {name!r} is {tensor.name!r}, not the first output of its operation.",
                "Name a placeholder, or the tensor that follows.",
            )
    meta = tf.compat.v1.MetaGraphDef()
    graph = tf.compat.v1.get_default_graph()
    stops = {tensor.op.name: tensor for tensor in inputs.values()}
    needed = _reachable([tensor.op for tensor in outputs.values()], stops)
    needed |= _reachable(_table_initializers(graph, needed), stops)
    _check_fed(needed, stops, outputs)
    variables = [variable for variable in _all_variables(graph) if variable.op.name in needed]
    kept = needed | _reachable(_operations_of(graph, variables), stops) | stops.keys()
    _copy_nodes(graph, kept, stops, meta.graph_def)
    _copy_collections(graph, kept, variables, meta)
    pruned = tf.Graph()
    with pruned.as_default():
        tf.compat.v1.train.import_meta_graph(meta, clear_devices=True)
        return InferenceGraph(
            pruned,
            {name: pruned.get_tensor_by_name(tensor.name) for name, tensor in inputs.items()},
            {name: pruned.get_tensor_by_name(tensor.name) for name, tensor in outputs.items()},
            tf.compat.v1.global_variables(),
        )


def check_tensors(tensors: Mapping[str, Any], side: str) -> None:
    """Raise ExportFailed unless every value is a tensor of a graph; `side` is input or output."""
    import tensorflow as tf

    for name, tensor in tensors.items():
        if not tf.is_tensor(tensor) or not hasattr(tensor, "op"):
            raise ExportFailed(
                f"The {side} {name!r} is a {type(tensor).__name__} instead of a tensor of the graph.",
                "Build everything in the default graph and return its tensors.",
            )


def write_inference_graph(session: Any, inference: InferenceGraph, options: ExportOptions, directory: str) -> None:
    """Write the graph, and the values that its variables have in `session`, as a SavedModel."""
    import tensorflow as tf

    v1 = tf.compat.v1
    definition = v1.saved_model.build_signature_def(
        {name: v1.saved_model.build_tensor_info(tensor) for name, tensor in inference.inputs.items()},
        {name: v1.saved_model.build_tensor_info(tensor) for name, tensor in inference.outputs.items()},
        v1.saved_model.signature_constants.PREDICT_METHOD_NAME,
    )
    # A sharded saver, the builder's default, puts a random name into the graph, so every export would differ.
    saver = v1.train.Saver(inference.variables, sharded=False, allow_empty=True) if inference.variables else None
    builder = v1.saved_model.Builder(directory)
    builder.add_meta_graph_and_variables(
        session,
        [tf.saved_model.SERVING],
        signature_def_map=signature_map(options.signature, options.also_default, definition),
        assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
        main_op=v1.tables_initializer() if v1.get_collection(v1.GraphKeys.TABLE_INITIALIZERS) else None,
        clear_devices=True,
        strip_default_attrs=True,
        saver=saver,
    )
    builder.save()


def _tensor(graph: Any, name: str, path: str) -> Any:
    try:
        return graph.get_tensor_by_name(name if ":" in name else name + ":0")
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidInput(f"The graph {path!r} has no tensor {name!r}.", "Name an existing one, e.g. x:0.") from error


def _reachable(operations: Iterable[Any], stops: Mapping[str, Any]) -> set[str]:
    """Return the names of `operations` and of all operations on which they depend, up to `stops`."""
    reached: set[str] = set()
    pending = list(operations)
    while pending:
        operation = pending.pop()
        if operation.name in reached:
            continue
        reached.add(operation.name)
        if operation.name not in stops:
            pending.extend(tensor.op for tensor in operation.inputs)
            pending.extend(operation.control_inputs)
    return reached


def _check_fed(needed: set[str], stops: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    graph = next(iter(outputs.values())).graph
    for name in sorted(needed - stops.keys()):
        if graph.get_operation_by_name(name).type == "Placeholder":
            raise ExportFailed(
                f"The outputs {sorted(outputs)} depend on the placeholder {name!r}, which is not an input.",
                "Make it an input, or build the graph for inference without it.",
            )


def _all_variables(graph: Any) -> list[Any]:
    import tensorflow as tf

    keys = tf.compat.v1.GraphKeys
    variables: dict[str, Any] = {}
    for key in (keys.GLOBAL_VARIABLES, keys.LOCAL_VARIABLES):
        for variable in graph.get_collection(key):
            variables.setdefault(variable.op.name, variable)
    return list(variables.values())


def _operations_of(graph: Any, variables: Iterable[Any]) -> list[Any]:
    """Return the operations in the variables' descriptions, all of which must exist at the import."""
    operations = []
    for variable in variables:
        proto = variable.to_proto()
        for name in (proto.variable_name, proto.initializer_name, proto.initial_value_name, proto.snapshot_name):
            if name:
                operations.append(graph.as_graph_element(name.split(":")[0]))
    return operations


def _table_initializers(graph: Any, needed: set[str]) -> list[Any]:
    import tensorflow as tf

    initializers = graph.get_collection(tf.compat.v1.GraphKeys.TABLE_INITIALIZERS)
    return [init for init in initializers if any(tensor.op.name in needed for tensor in init.inputs)]


def _copy_nodes(graph: Any, kept: set[str], stops: Mapping[str, Any], target: Any) -> None:
    original = graph.as_graph_def()
    target.versions.CopyFrom(original.versions)
    target.library.CopyFrom(original.library)
    for node in original.node:
        if node.name not in kept:
            continue
        copy = target.node.add()
        if node.name in stops:
            _make_placeholder(copy, node.name, stops[node.name])
            continue
        copy.CopyFrom(node)
        if "_class" in copy.attr:
            _drop_lost_colocations(copy, kept)


def _make_placeholder(node: Any, name: str, tensor: Any) -> None:
    node.name, node.op = name, "Placeholder"
    node.attr["dtype"].type = tensor.dtype.base_dtype.as_datatype_enum
    node.attr["shape"].shape.CopyFrom(tensor.shape.as_proto())


def _drop_lost_colocations(node: Any, kept: set[str]) -> None:
    # "loc:@NAME" must name a node of the same graph.
    places = [place for place in node.attr["_class"].list.s if place.decode().removeprefix("loc:@") in kept]
    del node.attr["_class"]
    if places:
        node.attr["_class"].list.s.extend(places)


def _copy_collections(graph: Any, kept: set[str], variables: Iterable[Any], meta: Any) -> None:
    import tensorflow as tf

    keys = tf.compat.v1.GraphKeys
    trainable = {variable.op.name for variable in graph.get_collection(keys.TRAINABLE_VARIABLES)}
    for variable in variables:
        data = variable.to_proto().SerializeToString(deterministic=True)
        meta.collection_def[keys.GLOBAL_VARIABLES].bytes_list.value.append(data)
        if variable.op.name in trainable:
            meta.collection_def[keys.TRAINABLE_VARIABLES].bytes_list.value.append(data)
    for key in (keys.TABLE_INITIALIZERS, keys.ASSET_FILEPATHS):
        for element in graph.get_collection(key):
            if getattr(element, "op", element).name in kept:
                meta.collection_def[key].node_list.value.append(element.name)
