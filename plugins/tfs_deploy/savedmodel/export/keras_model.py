"""Keras models: a whole ``.keras`` or HDF5 file, or weights for a model that a builder makes.

Runs in the exporting process.

The builder of a weights file takes no arguments and returns the built ``keras.Model``. A whole model requires
one only for custom classes: it returns the dict of custom objects that ``load_model`` takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfs_deploy.errors import ExportFailed
from tfs_deploy.savedmodel.export.signature import ServedFunction, call_function, error_summary
from tfs_deploy.savedmodel.source import HDF5_SUFFIXES, CheckpointSource, weights_without_builder

# Arguments that Keras 2 writes and Keras 3 refuses; with these values they change nothing.
_KERAS_2_ARGUMENTS: dict[str, dict[str, Any]] = {
    "DepthwiseConv2D": {"groups": 1},
    "LSTM": {"time_major": False},
    "GRU": {"time_major": False},
    "SimpleRNN": {"time_major": False},
}


def load_keras(source: CheckpointSource) -> ServedFunction:
    """Load a whole model; raise InvalidInput for an HDF5 file that holds weights only."""
    if source.path.endswith(HDF5_SUFFIXES) and not _holds_model(source.path):
        raise weights_without_builder(source)
    return _load_whole(source, call_function(source.builder, "builder") if source.builder else {})


def load_keras_weights(source: CheckpointSource) -> ServedFunction:
    """Load weights into the model of the builder; every weight must fit.

    A builder that returns a dict describes the custom objects of a whole model.
    """
    import keras

    built = call_function(source.builder, "builder")
    if isinstance(built, Mapping):
        return _load_whole(source, built)
    if not isinstance(built, keras.Model):
        raise ExportFailed(
            f"The builder {source.builder!r} returned a {type(built).__name__} instead of a keras.Model.",
            "Return the built model.",
        )
    try:
        built.load_weights(source.path)
    except Exception as error:
        raise ExportFailed(
            f"The weights {source.path!r} do not fit the model of {source.builder!r}: {error_summary(error)}.",
            "Build the model exactly as it was when its weights were saved.",
        ) from error
    return served_model(built, source.builder)


def _load_whole(source: CheckpointSource, custom_objects: Mapping[str, Any]) -> ServedFunction:
    import keras

    hdf5 = source.path.endswith(HDF5_SUFFIXES)
    objects = {**(_keras_2_layers() if hdf5 else {}), **custom_objects}
    try:
        # The safe mode refuses a file that holds Python code, such as a Lambda layer.
        model = keras.models.load_model(source.path, custom_objects=objects, compile=False, safe_mode=True)
    except Exception as error:
        again = "Load it with the Keras that saved it and write a SavedModel" if hdf5 else "Save it again as NAME.keras"
        raise ExportFailed(
            f"The Keras file {source.path!r} cannot be loaded: {error_summary(error)}.",
            f"{again}, or name a builder that returns its custom objects.",
        ) from error
    return served_model(model, source.path)


def _holds_model(path: str) -> bool:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "model_config" in file.attrs
    except OSError as error:
        raise ExportFailed(
            f"The file {path!r} cannot be read as HDF5: {error_summary(error)}.", "Copy it again as a whole."
        ) from error


def _keras_2_layers() -> dict[str, Any]:
    """Return layers of Keras 3, by name, that also accept the arguments of Keras 2."""
    import keras

    def tolerant(base: Any, neutral: Mapping[str, Any]) -> Any:
        class Layer(base):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **{key: v for key, v in kwargs.items() if (key, v) not in neutral.items()})

        Layer.__name__ = base.__name__
        return Layer

    return {name: tolerant(getattr(keras.layers, name), neutral) for name, neutral in _KERAS_2_ARGUMENTS.items()}


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
