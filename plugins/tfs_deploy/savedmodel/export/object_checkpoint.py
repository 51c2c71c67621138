"""Object-based checkpoints of ``tf.train.Checkpoint``, restored into the objects of a builder.

Runs in the exporting process.

The builder takes no arguments and returns the saved objects, in one of these forms:

* a Keras model, or a ``tf.Module`` with a ``serve`` or ``__call__`` that is a ``tf.function`` with an input
  signature, when the checkpoint was written by ``tf.train.Checkpoint(root)``;
* a dict, ``{"model": model, ...}``, when it was written by ``tf.train.Checkpoint(model=model, ...)``; the entry
  called ``model``, or else the only one, is served;
* a pair of one of these and the function to serve, a ``tf.function`` with an input signature.
"""

from __future__ import annotations

import re
from typing import Any

from tfs_deploy.errors import ExportFailed
from tfs_deploy.savedmodel.export.keras_model import served_model
from tfs_deploy.savedmodel.export.signature import ServedFunction, call_function, error_summary
from tfs_deploy.savedmodel.source import CheckpointSource

_CONTRACT = (
    "Return a Keras model, a tf.Module whose 'serve' or '__call__' is a tf.function with an input_signature, a dict "
    "{'model': ...} of what was passed to tf.train.Checkpoint, or a pair of one of these and the tf.function to serve."
)


def load_checkpoint(source: CheckpointSource) -> ServedFunction:
    """Build the objects, trace the served function so that all variables exist, then restore each of them."""
    built = call_function(source.builder, "builder")
    objects, function = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    served = _served(objects, function, source.builder)
    _restore(source, objects)
    return served


def _served(objects: Any, function: Any, builder: str) -> ServedFunction:
    import keras

    main = _main_object(objects, builder) if function is None else objects
    if function is None and isinstance(main, keras.Model):
        return served_model(main, builder)
    if function is None:
        function = next(
            (method for name in ("serve", "__call__") if _is_traceable(method := getattr(main, name, None))), None
        )
    if isinstance(function, keras.Model):
        return served_model(function, builder)
    if not _is_traceable(function):
        raise ExportFailed(
            f"The builder {builder!r} returned a {type(main).__name__} without a served function.", _CONTRACT
        )
    try:
        # A concrete function is traced already.
        concrete = function.get_concrete_function() if hasattr(function, "get_concrete_function") else function
        positional, named = concrete.structured_input_signature
    except Exception as error:
        raise ExportFailed(
            f"The function of builder {builder!r} cannot be traced: {error_summary(error)}.", _CONTRACT
        ) from error
    return _of_function(function, positional, named, main, builder)


def _of_function(function: Any, positional: Any, named: dict[str, Any], root: Any, builder: str) -> ServedFunction:
    import tensorflow as tf

    specs = (*positional, *(tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in named.items()))
    if not all(isinstance(spec, tf.TensorSpec) for spec in specs):
        raise ExportFailed(f"The function of builder {builder!r} takes more than plain tensors.", _CONTRACT)

    def call(*tensors: Any) -> Any:
        return function(*tensors[: len(positional)], **dict(zip(named, tensors[len(positional) :], strict=True)))

    return ServedFunction(root, specs, call)


def _main_object(objects: Any, builder: str) -> Any:
    if not isinstance(objects, dict):
        return objects
    if "model" in objects or len(objects) == 1:
        return objects.get("model", next(iter(objects.values())))
    raise ExportFailed(f"The builder {builder!r} returned {sorted(objects)}, and none is called 'model'.", _CONTRACT)


def _is_traceable(function: Any) -> bool:
    return hasattr(function, "get_concrete_function") or hasattr(function, "structured_input_signature")


def _restore(source: CheckpointSource, objects: Any) -> None:
    import tensorflow as tf

    try:
        checkpoint = tf.train.Checkpoint(**objects) if isinstance(objects, dict) else tf.train.Checkpoint(objects)
        checkpoint.read(source.path).expect_partial().assert_existing_objects_matched()
    except AssertionError as error:
        raise ExportFailed(
            _missing(source, str(error)), "Build the same objects that were saved, by the same names."
        ) from error
    except Exception as error:
        raise ExportFailed(
            f"The checkpoint {source.path!r} does not fit what {source.builder!r} builds: {error_summary(error)}.",
            "Build the same objects that were saved, and see that the checkpoint is whole.",
        ) from error


def _missing(source: CheckpointSource, message: str) -> str:
    # TensorFlow's text: "Found 3 Python objects that were not bound to checkpointed values ... Showing 3 of 3
    # unmatched objects: [<Variable path=model/dense/kernel, shape=...>, <tf.Variable 'w:0' shape=...>]".
    count = re.search(r"Found (\d+) Python objects", message)
    variables = sorted(re.findall(r"Variable (?:path=|')([\w/:.\-]+)", message))
    first = f", among them {variables[0]!r}" if variables else ""
    return (
        f"The checkpoint {source.path!r} lacks values for {count.group(1) if count else 'some'} objects that "
        f"{source.builder!r} builds{first}."
    )
