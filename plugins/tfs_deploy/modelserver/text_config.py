"""Text protobuf files that flags and versions name: the reader for all of them, and the two with a schema of their own.

``--ssl_config_file`` (contract 11) holds the PEM texts themselves, not their paths; ``--monitoring_config_file`` sets
whether the metrics page is served, and its path.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool

from tfs_deploy.modelserver.status import StatusError, invalid_argument, of_os_error

Fields = Mapping[str, str]

_PACKAGE = "tensorflow.serving"
_PEM_BEGIN = "-----BEGIN "
DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"  # `PrometheusExporter::kPrometheusPath`
_SSL_CONFIG: dict[str, Fields] = {
    "SSLConfig": {
        "server_key": "string",
        "server_cert": "string",
        "custom_ca": "string",  # clients' certificates are verified against it
        "client_verify": "bool",
    }
}
_MONITORING_CONFIG: dict[str, Fields] = {
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": f".{_PACKAGE}.PrometheusConfig"},
}


def read_text_proto(path: str | Path, message: Any, pool: DescriptorPool | None = None) -> Any:
    """Fill `message` from a text file and return it; raise NOT_FOUND without it, INVALID_ARGUMENT for any other text.

    The parser's message is left out of the error and not chained to it: it may quote a line of a private key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise of_os_error(error) from error
    except UnicodeDecodeError:
        raise invalid_argument(f"Invalid protobuf file: '{path}'") from None
    if not text:  # TensorFlow maps the file into memory, which fails for an empty one
        raise invalid_argument(f"{path}; Invalid argument")
    try:
        return text_format.Parse(text, message, descriptor_pool=pool)
    except text_format.ParseError:
        raise invalid_argument(f"Invalid protobuf file: '{path}'") from None


def new_message(schema: Mapping[str, Fields]) -> Any:
    """Return an empty message of the last type in `schema`, which maps message names to types by field name.

    These messages are not in the package's descriptor set. Each schema has a descriptor pool of its own, and only text
    is read, so the field numbers are positions, not those of TF Serving's .proto files.
    """
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="config.proto", package=_PACKAGE, syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    for name, fields in schema.items():
        message = file.message_type.add(name=name)
        for number, (field, described) in enumerate(fields.items(), 1):
            repeated, type_name = described.startswith("repeated "), described.removeprefix("repeated ")
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if type_name.startswith("."):
                added.type, added.type_name = kinds.TYPE_MESSAGE, type_name
            else:
                added.type = kinds.Type.Value(f"TYPE_{type_name.upper()}")
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))()


def metrics_page_path(file: str) -> str | None:
    """Return the path of the metrics page, or None without one; raise NOT_FOUND or INVALID_ARGUMENT."""
    if not file:
        return None
    config = read_text_proto(file, new_message(_MONITORING_CONFIG)).prometheus_config
    return (str(config.path) or DEFAULT_METRICS_PATH) if config.enable else None


def ssl_credentials(path: str) -> grpc.ServerCredentials:
    """Return the credentials of the gRPC ports; raise StatusError, without a key's text, where no handshake can work.

    With `client_verify` a client must present a certificate of the CA; otherwise it is not asked for one.
    """
    config = read_text_proto(path, new_message(_SSL_CONFIG))
    _check_ssl_config(config, path)
    credentials = grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
    # gRPC reads the texts only when it opens a port: a trial port shows errors before anything is loaded.
    trial = grpc.server(ThreadPoolExecutor(1))
    try:
        bound = trial.add_secure_port("127.0.0.1:0", credentials)
    except RuntimeError:
        bound = 0
    finally:
        trial.stop(None)
    if not bound:
        raise _not_started(f"{path}: the server_key, server_cert or custom_ca cannot be used, or do not fit.")
    return credentials


def _check_ssl_config(config: Any, path: str) -> None:
    for name in ("server_key", "server_cert"):
        if not getattr(config, name):
            raise _not_started(f"{path} has no {name}.")
    for name in ("server_key", "server_cert", "custom_ca"):
        text = getattr(config, name)
        if text and _PEM_BEGIN not in text:
            raise _not_started(f"{name} in {path} is not PEM; give the text of the file, not its path.")
    if config.client_verify and not config.custom_ca:
        raise _not_started(f"{path} asks for client_verify and has no custom_ca to verify clients against.")


def _not_started(cause: str) -> StatusError:
    """Return TF Serving's error for credentials that gRPC refuses, with the cause."""
    return invalid_argument(f"Failed to BuildAndStart gRPC server: {cause}")
