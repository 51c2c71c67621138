"""Keras 3 models: a whole ``.keras`` file, or weights for a model that a builder makes.

Runs in the exporting process.

Builders: for weights, a function without arguments that returns the built ``keras.Model``. For a ``.keras`` file a
builder is needed only for custom classes: it returns the dict of custom objects that ``load_model`` takes.
"""

from __future__ import annotations

from typing import Any

from tfs_deploy.errors import ExportFailed
from tfs_deploy.savedmodel.export.signature import ServedFunction, call_function, reason
from tfs_deploy.savedmodel.source import CheckpointSource


def load_keras(source: CheckpointSource) -> ServedFunction:
    """Load a ``.keras`` file; code inside the file is not run (safe mode)."""
    import keras

    custom = call_function(source.builder, "builder") if source.builder else None
    try:
        model = keras.models.load_model(source.path, custom_objects=custom, compile=False, safe_mode=True)
    except Exception as error:
        raise ExportFailed(
            f"The Keras file {source.path!r} cannot be loaded: {reason(error)}.",
            "Save it again with model.save('NAME.keras'); name a builder that returns its custom objects, if any.",
        ) from error
    return served_model(model, source.path)


def load_keras_weights(source: CheckpointSource) -> ServedFunction:
    """Build the model and load the weights into it; every weight must fit."""
    import keras

    model = call_function(source.builder, "builder")
    if not isinstance(model, keras.Model):
        raise ExportFailed(
            f"The builder {source.builder!r} returned a {type(model).__name__} instead of a keras.Model.",
            "Return the built model.",
        )
    try:
        model.load_weights(source.path)
    except Exception as error:
        raise ExportFailed(
            f"The weights {source.path!r} do not fit the model of {source.builder!r}: {reason(error)}.",
            "Build the model exactly as it was when its weights were saved.",
        ) from error
    return served_model(model, source.builder)


def served_model(model: Any, where: str) -> ServedFunction:
    """Return the inference call of the Keras `model`; its inputs must be declared (functional or sequential)."""
    import keras
    import tensorflow as tf

    inputs = list(getattr(model, "inputs", None) or ())
    if not inputs:
        raise ExportFailed(
            f"The Keras model of {where!r} declares no inputs.",
            "Build it as a functional or sequential model with keras.Input, or export it with model.export and use "
            "the SavedModel.",
        )
    if any(getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False) for tensor in inputs):
        raise ExportFailed(
            f"The Keras model of {where!r} has sparse or ragged inputs.",
            "Give it dense inputs: TF Serving sends those.",
        )
    specs = tuple(tf.TensorSpec(tensor.shape, tensor.dtype, tensor.name) for tensor in inputs)
    places = {id(tensor): place for place, tensor in enumerate(inputs)}
    # A functional model may take a dict or a nest; a sequential one takes its only input as it is.
    sequential = isinstance(model, keras.Sequential)
    structure = inputs[0] if sequential else getattr(model, "input", inputs)
    names = [model.layers[-1].name] if sequential else getattr(model, "output_names", None) or ()

    def call(*tensors: Any) -> Any:
        packed = tf.nest.map_structure(lambda leaf: tensors[places[id(leaf)]], structure)
        return model(packed, training=False)

    return ServedFunction(model, specs, call, tuple(names))
