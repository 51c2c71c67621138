"""The form of a target, TLS credentials, and the options of every gRPC channel to a model server."""

from __future__ import annotations

import re

import grpc

from tfs_deploy import __version__
from tfs_deploy.errors import InvalidInput
from tfs_deploy.serving.group_settings import TLSOptions

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]@]+):(?P<port>[0-9]{1,5})")
_UNIX = re.compile(r"unix:(//)?/?[^\s:]+")


def check_target(target: str) -> str:
    """Return `target` if it is ``host:port`` or ``unix:/path``; raise InvalidInput otherwise."""
    remedy = "Give host:port of the gRPC port, e.g. 'serving-0:8500' or '[::1]:8500', or 'unix:/path/to/socket'."
    if not isinstance(target, str):
        raise InvalidInput(f"The target {target!r} is not a str.", remedy)
    if _UNIX.fullmatch(target):
        return target
    match = _HOST_PORT.fullmatch(target)
    if not match:
        raise InvalidInput(f"The target {target!r} is not an address of a model server.", remedy)
    if not 0 < int(match["port"]) < 65536:
        raise InvalidInput(f"The target {target!r} has the port {match['port']}.", "Use a port from 1 to 65535.")
    return target


def options(tls: TLSOptions | None) -> list[tuple[str, str | int]]:
    """Return the channel arguments.

    Messages are not limited here, the server's limit is 2 GiB (contract 14). Pings are further apart than the 5 minutes
    below which a server answers ``too_many_pings``. A server that was restarted is tried again within 2 seconds
    (gRPC's own back-off grows to 2 minutes), by each client on its own. gRPC's "minimum back-off" is the time limit of
    one attempt to connect, TLS included.
    """
    arguments: list[tuple[str, str | int]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.keepalive_time_ms", 360_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 10_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.primary_user_agent", f"tfs-deploy/{__version__}"),
    ]
    if tls is not None and tls.server_name:
        arguments.append(("grpc.ssl_target_name_override", tls.server_name))
    return arguments


def credentials(tls: TLSOptions) -> grpc.ChannelCredentials:
    """Return the channel credentials for `tls`; raise InvalidInput where they cannot be used."""
    if (tls.private_key is None) != (tls.certificate_chain is None):
        raise InvalidInput(
            "A client certificate needs both a private key and a certificate chain, but only one was given.",
            "Give both, or neither.",
        )
    parts = {
        "root certificates": tls.root_certificates,
        "private key": tls.private_key,
        "certificate chain": tls.certificate_chain,
    }
    for name, pem in parts.items():
        if pem is not None and b"-----BEGIN " not in pem:
            raise InvalidInput(f"The TLS {name} are not PEM.", "Give the bytes of a file with '-----BEGIN' lines.")
    return grpc.ssl_channel_credentials(tls.root_certificates, tls.private_key, tls.certificate_chain)
