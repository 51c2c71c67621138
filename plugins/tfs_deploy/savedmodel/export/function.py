"""A TensorFlow 2 function with its variables, written as a SavedModel with one named signature.

Runs in the exporting process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tfs_deploy.errors import ExportFailed, TFSDeployError
from tfs_deploy.savedmodel.export.interface import input_names, output_tensors, postprocessed, reason, signature_map
from tfs_deploy.savedmodel.source import ExportOptions


@dataclass(frozen=True, slots=True)
class ServedFunction:
    """What is served: `call` takes one tensor per spec of `specs`; `root` tracks every variable that it uses."""

    root: Any
    specs: tuple[Any, ...]
    call: Callable[..., Any]
    output_names: tuple[str, ...] = ()


def write_saved_model(served: ServedFunction, options: ExportOptions, directory: str) -> None:
    """Write `served` to `directory` under the names that `options` asks for."""
    import tensorflow as tf

    names = input_names([spec.name or "" for spec in served.specs], options.inputs)
    specs = [tf.TensorSpec(spec.shape, spec.dtype, name) for spec, name in zip(served.specs, names, strict=True)]
    # tf.function wraps what is raised while it traces; the first error of ours is kept aside.
    failures: list[TFSDeployError] = []

    def serve(*tensors: Any) -> dict[str, Any]:
        try:
            outputs = output_tensors(served.call(*tensors), served.output_names, options.outputs)
            return postprocessed(outputs, options.postprocess)
        except TFSDeployError as error:
            failures.append(error)
            raise

    module = tf.Module()
    try:
        module.serve = tf.function(serve, input_signature=specs)
        signature = module.serve.get_concrete_function()
        # Not `root` itself: a Keras 3 model tracked from here is saved with copies of its variables, and the
        # originals, which the function reads, are never restored. It also leaves out what serving does not need.
        module.captured = _variables(signature)
        module.resources = _resources(served.root)
        tf.saved_model.save(
            module, directory, signatures=signature_map(options.signature, options.also_default, signature)
        )
    except Exception as error:
        if failures:
            raise failures[0] from error
        raise ExportFailed(
            f"The model cannot be written as a SavedModel: {reason(error)}.",
            "Call it with tensors of its input signature to see where it fails.",
        ) from error


def _variables(signature: Any) -> list[Any]:
    """Return the variables that the concrete function reads, in the order in which it captured them.

    ``signature.variables`` comes from a set, and its order would make every export another sequence of bytes.
    """
    places = {id(tensor): place for place, tensor in enumerate(signature.captured_inputs)}
    return sorted(signature.variables, key=lambda one: (places.get(id(one.handle), len(places)), one.name))


def _resources(root: Any) -> list[Any]:
    """Return the lookup tables and the like below `root`."""
    import tensorflow as tf

    holder = tf.Module()
    holder.root = root
    found = tf.train.TrackableView(holder).descendants()
    return [one for one in found if isinstance(one, tf.saved_model.experimental.TrackableResource)]
