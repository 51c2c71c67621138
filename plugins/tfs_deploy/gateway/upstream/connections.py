"""One connection per model server, shared by all models and used again by every request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.config import ReplicaTLS
from tfs_deploy.serving import client_aio
from tfs_deploy.serving.client_aio import AsyncModelServerClient
from tfs_deploy.serving.protocol import TLSOptions


class Connections:
    """Clients by address; each `acquire` is paired with a `release`, the last one closes the connection."""

    def __init__(
        self,
        tls: ReplicaTLS | None = None,
        *,
        connect: Callable[..., AsyncModelServerClient] = client_aio.connect,
    ) -> None:
        self._tls = tls and _read(tls)
        self._connect = connect
        self._open: dict[str, tuple[AsyncModelServerClient, int]] = {}

    def acquire(self, target: str) -> AsyncModelServerClient:
        """Return the client for ``host:port``; nothing is sent before its first call."""
        client, users = self._open.get(target) or (self._connect(target, tls=self._tls), 0)
        self._open[target] = (client, users + 1)
        return client

    async def release(self, target: str) -> None:
        """Give up one use of the connection to `target`."""
        client, users = self._open.pop(target)
        if users > 1:
            self._open[target] = (client, users - 1)
        else:
            await client.close()


def _read(tls: ReplicaTLS) -> TLSOptions:
    return TLSOptions(
        root_certificates=_pem(tls.root_certificates),
        private_key=_pem(tls.private_key),
        certificate_chain=_pem(tls.certificate_chain),
        server_name=tls.server_name,
    )


def _pem(path: str | None) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"The PEM file {path} of `replica_tls` cannot be read: {error.strerror}.", "Correct the path."
        ) from error
