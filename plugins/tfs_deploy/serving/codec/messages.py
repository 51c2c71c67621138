"""TF Serving's protobuf messages, from a descriptor set in a private pool: the wire schema without TensorFlow.

``from tensorflow_serving.apis import predict_pb2`` imports TensorFlow (7 s, 550 MB). The classes here are built
from `descriptors.binpb`, which tests/serving/generate_descriptors.py extracts from tensorflow-serving-api; a
private pool avoids a clash of symbols in a process that also imports TensorFlow.

``messages.PredictRequest`` and every other name in `FULL_NAMES` is a message class, made on first use.
"""

from __future__ import annotations

import threading
from functools import cache
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_SERVING = "tensorflow.serving."
FULL_NAMES = {
    "Any": "google.protobuf.Any",
    "AttrValue": "tensorflow.AttrValue",
    "ClassificationRequest": _SERVING + "ClassificationRequest",
    "ClassificationResponse": _SERVING + "ClassificationResponse",
    "Example": "tensorflow.Example",
    "FileSystemStoragePathSourceConfig": _SERVING + "FileSystemStoragePathSourceConfig",
    "GetModelMetadataRequest": _SERVING + "GetModelMetadataRequest",
    "GetModelMetadataResponse": _SERVING + "GetModelMetadataResponse",
    "GetModelStatusRequest": _SERVING + "GetModelStatusRequest",
    "GetModelStatusResponse": _SERVING + "GetModelStatusResponse",
    "MetaGraphDef": "tensorflow.MetaGraphDef",
    "ModelConfig": _SERVING + "ModelConfig",
    "ModelConfigList": _SERVING + "ModelConfigList",
    "ModelServerConfig": _SERVING + "ModelServerConfig",
    "ModelSpec": _SERVING + "ModelSpec",
    "ModelVersionStatus": _SERVING + "ModelVersionStatus",
    "MultiInferenceRequest": _SERVING + "MultiInferenceRequest",
    "MultiInferenceResponse": _SERVING + "MultiInferenceResponse",
    "PredictLog": _SERVING + "PredictLog",
    "PredictRequest": _SERVING + "PredictRequest",
    "PredictResponse": _SERVING + "PredictResponse",
    "PredictionLog": _SERVING + "PredictionLog",
    "RegressionRequest": _SERVING + "RegressionRequest",
    "RegressionResponse": _SERVING + "RegressionResponse",
    "ReloadConfigRequest": _SERVING + "ReloadConfigRequest",
    "ReloadConfigResponse": _SERVING + "ReloadConfigResponse",
    "SavedModel": "tensorflow.SavedModel",
    "SignatureDef": "tensorflow.SignatureDef",
    "SignatureDefMap": _SERVING + "SignatureDefMap",
    "StatusProto": _SERVING + "StatusProto",
    "TensorInfo": "tensorflow.TensorInfo",
    "TensorProto": "tensorflow.TensorProto",
    "TensorShapeProto": "tensorflow.TensorShapeProto",
}

# Clients of several replicas ask for their first message class at the same time.
_lock = threading.Lock()
# Holds them, because protobuf forgets a class that nobody holds, and makes it again.
_classes: dict[str, Any] = {}


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    """Build the pool; only under the lock, because two pools would have two classes for one message."""
    files = descriptor_pb2.FileDescriptorSet.FromString(
        (resources.files(__package__) / "descriptors.binpb").read_bytes()
    )
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    _make_classes(pool)
    return pool


def _make_classes(pool: descriptor_pool.DescriptorPool) -> None:
    """Make the class of every message now: two threads that read the first message of a kind at once can crash."""
    waiting = [pool.FindMessageTypeByName(name) for name in FULL_NAMES.values()]
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name not in _classes:
            _classes[descriptor.full_name] = message_factory.GetMessageClass(descriptor)
            waiting += [field.message_type for field in descriptor.fields if field.message_type is not None]
            waiting += descriptor.nested_types


def private_pool() -> descriptor_pool.DescriptorPool:
    """Return the private pool, filled from the descriptor set on the first call."""
    with _lock:
        return _pool()


@cache
def message_class(full_name: str) -> Any:
    """Return the class of the message called `full_name`, e.g. ``tensorflow.serving.PredictRequest``."""
    return message_factory.GetMessageClass(private_pool().FindMessageTypeByName(full_name))


@cache
def enum_names(full_name: str) -> dict[int, str]:
    """Return number to name for the enum called `full_name`, e.g. ``tensorflow.DataType``."""
    values = private_pool().FindEnumTypeByName(full_name).values
    return {value.number: value.name for value in values}


def __getattr__(name: str) -> Any:
    if name in FULL_NAMES:
        return message_class(FULL_NAMES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
