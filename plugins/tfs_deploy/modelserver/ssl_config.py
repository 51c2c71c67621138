"""TLS for the gRPC ports, from a text SSLConfig (contract 11): the PEM texts themselves, not paths to them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tfs_deploy.modelserver import text_proto
from tfs_deploy.modelserver.status import StatusError, invalid_argument

_Field = descriptor_pb2.FieldDescriptorProto
_BEGIN = "-----BEGIN "


@dataclass(frozen=True, slots=True)
class SSLConfig:
    """The server's key and certificate chain; `custom_ca` is what clients' certificates are verified against."""

    server_key: str = field(repr=False)
    server_cert: str
    custom_ca: str = ""
    client_verify: bool = False


def credentials(path: str) -> grpc.ServerCredentials:
    """Return what the ports are opened with; raise StatusError for a file that no handshake would succeed with.

    With `client_verify` a client must show a certificate of the CA; otherwise it is not asked for one.
    """
    config = read_file(path)
    made = grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
    # gRPC looks at the texts only when a port is opened: on a port of no importance, now, before anything is loaded.
    trial = grpc.server(ThreadPoolExecutor(1))
    try:
        bound = trial.add_secure_port("127.0.0.1:0", made)
    except RuntimeError:
        bound = 0
    finally:
        trial.stop(None)
    if not bound:
        raise _not_started(f"{path}: the server_key, server_cert or custom_ca cannot be used, or do not fit.")
    return made


def read_file(path: str) -> SSLConfig:
    """Return the configuration in a text file; raise StatusError with what is wrong, never with a key's text."""
    message = text_proto.read(path, message_factory.GetMessageClass(_descriptor())())
    config = SSLConfig(message.server_key, message.server_cert, message.custom_ca, message.client_verify)
    _check(config, path)
    return config


def _check(config: SSLConfig, path: str) -> None:
    """Refuse what would make every handshake fail."""
    for name in ("server_key", "server_cert"):
        if not getattr(config, name):
            raise _not_started(f"{path} has no {name}.")
    for name in ("server_key", "server_cert", "custom_ca"):
        text = getattr(config, name)
        if text and _BEGIN not in text:
            raise _not_started(f"{name} in {path} is not PEM; give the text of the file, not its path.")
    if config.client_verify and not config.custom_ca:
        raise _not_started(f"{path} asks for client_verify and has no custom_ca to verify clients against.")


def _not_started(why: str) -> StatusError:
    """Return what TF Serving says of credentials that gRPC refuses, and why."""
    return invalid_argument(f"Failed to BuildAndStart gRPC server: {why}")


@cache
def _descriptor() -> Any:
    """Return the one message: the package's descriptor set has none of it. Only text is read, so the names count."""
    file = descriptor_pb2.FileDescriptorProto(name="ssl_config.proto", package="tensorflow.serving", syntax="proto3")
    message = file.message_type.add(name="SSLConfig")
    for number, name in enumerate(("server_key", "server_cert", "custom_ca", "client_verify"), 1):
        kind = _Field.TYPE_BOOL if name == "client_verify" else _Field.TYPE_STRING
        message.field.add(name=name, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindMessageTypeByName("tensorflow.serving.SSLConfig")
