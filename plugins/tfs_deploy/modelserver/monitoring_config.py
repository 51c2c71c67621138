"""``--monitoring_config_file``: a text MonitoringConfig, which says whether and where the metrics page is served."""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tfs_deploy.modelserver import text_proto

DEFAULT_PATH = "/monitoring/prometheus/metrics"  # `PrometheusExporter::kPrometheusPath`


def read_path(file: str) -> str | None:
    """Return the path of the metrics page, or None without one; raise NOT_FOUND or INVALID_ARGUMENT."""
    if not file:
        return None
    config = text_proto.read(file, _message_class()())
    if not config.prometheus_config.enable:
        return None
    return str(config.prometheus_config.path) or DEFAULT_PATH


@cache
def _message_class() -> Any:
    """Return MonitoringConfig of ``config/monitoring_config.proto``; in a pool of its own, under its own names."""
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="monitoring_config.proto", package="tensorflow.serving", syntax="proto3"
    )
    prometheus = file.message_type.add(name="PrometheusConfig")
    prometheus.field.add(name="enable", number=1, type=field_type.TYPE_BOOL, label=field_type.LABEL_OPTIONAL)
    prometheus.field.add(name="path", number=2, type=field_type.TYPE_STRING, label=field_type.LABEL_OPTIONAL)
    monitoring = file.message_type.add(name="MonitoringConfig")
    monitoring.field.add(
        name="prometheus_config",
        number=1,
        type=field_type.TYPE_MESSAGE,
        type_name=".tensorflow.serving.PrometheusConfig",
        label=field_type.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.MonitoringConfig"))
