"""Write TF Serving's wire schema, as tensorflow-serving-api has it, into a set that needs no TensorFlow.

Run after an upgrade of tensorflow-serving-api: ``python tests/serving/generate_descriptors.py``.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from google.protobuf import descriptor_pb2

import tfs_deploy.serving.codec

OUTPUT = Path(tfs_deploy.serving.codec.__file__).parent / "descriptors.binpb"

ROOTS = (
    "tensorflow_serving.apis.prediction_service_pb2",
    "tensorflow_serving.apis.model_service_pb2",
    "tensorflow_serving.apis.prediction_log_pb2",
    "tensorflow_serving.config.model_server_config_pb2",
    "tensorflow.core.protobuf.saved_model_pb2",
    "tensorflow.core.example.example_pb2",
)


def build() -> descriptor_pb2.FileDescriptorSet:
    """Return every file that ROOTS need, each after the files it imports."""
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(file: object) -> None:
        if file.name in files:  # type: ignore[attr-defined]
            return
        for dependency in file.dependencies:  # type: ignore[attr-defined]
            add(dependency)
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)  # type: ignore[attr-defined]
        proto.ClearField("source_code_info")
        files[proto.name] = proto

    for root in ROOTS:
        add(importlib.import_module(root).DESCRIPTOR)
    return descriptor_pb2.FileDescriptorSet(file=files.values())


if __name__ == "__main__":
    OUTPUT.write_bytes(build().SerializeToString(deterministic=True))
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")
