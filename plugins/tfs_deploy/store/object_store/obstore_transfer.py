"""Transfer of file contents by obstore (the Rust crate object_store), or by boto3 where obstore cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tfs_deploy.errors import InvalidInput, MissingExtra
from tfs_deploy.store.download.state import NoPieces
from tfs_deploy.store.object_store.address import DIGEST_METADATA
from tfs_deploy.store.object_store.connection import Connection
from tfs_deploy.store.object_store.errors import Interrupted, MissingObject, reporting
from tfs_deploy.store.object_store.transfer import PARTS_AT_ONCE, BotoTransfer, Buffer, Transfer

log = logging.getLogger(__name__)

# Fits a core's cache, and is long enough for hashlib to release the interpreter lock.
_BLOCK_BYTES = 256 << 10
# How long obstore may use credentials before it asks again; botocore renews those that end sooner.
_CREDENTIALS_FOR = timedelta(minutes=5)


class OneCertificateOnly(Exception):
    """A CA bundle holds several certificates, and object_store trusts one only."""


class ObstoreTransfer:
    """Blocking calls of obstore, which release the interpreter lock; the caller runs them in threads."""

    def __init__(self, connection: Connection) -> None:
        import obstore
        import obstore.exceptions

        self._obstore = obstore
        self._address = connection.address
        self._store = _open_store(connection)
        # Some servers answer a range with status 200, which object_store refuses and boto3 takes.
        self._boto3 = BotoTransfer(connection)
        self._ranges_by_boto3 = False

    def put(self, name: str, body: Buffer, *, sha256: str) -> None:
        with reporting(f"write {name!r}", self._address):
            self._obstore.put(
                self._store, self._key(name), body, attributes={DIGEST_METADATA: sha256}, use_multipart=False
            )

    def put_parts(self, name: str, parts: Iterator[memoryview], *, sha256: str, part_bytes: int) -> None:
        with reporting(f"write {name!r}", self._address):
            self._obstore.put(
                self._store,
                self._key(name),
                parts,
                attributes={DIGEST_METADATA: sha256},
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=PARTS_AT_ONCE,
            )

    def get(self, name: str, *, size: int) -> Buffer:
        with reporting(f"read {name!r}", self._address):
            answer = self._obstore.get(self._store, self._key(name))
        if answer.meta["size"] > size:
            raise MissingObject(name)  # another object than the expected one, which may not fit the memory
        with reporting(f"read {name!r}", self._address, body=True):
            body = memoryview(answer.bytes())
        if len(body) != answer.meta["size"]:
            raise Interrupted(f"The object {name!r} broke off.", "Run the same step again.")
        return body

    def range(self, name: str, start: int, end: int) -> Iterator[Buffer]:
        if not self._ranges_by_boto3:
            try:
                yield from self._range(name, start, end)
                return
            except NoPieces:
                # Raised before the first block, so nothing was yielded yet.
                self._ranges_by_boto3 = True
        yield from self._boto3.range(name, start, end)

    def stream(self, name: str) -> Iterator[Buffer]:
        with reporting(f"read {name!r}", self._address):
            answer = self._obstore.get(self._store, self._key(name))
        return self._blocks(name, answer)

    def _range(self, name: str, start: int, end: int) -> Iterator[Buffer]:
        with reporting(f"read {name!r}", self._address):
            try:
                answer = self._obstore.get(self._store, self._key(name), options={"range": (start, end)})
            except self._obstore.exceptions.GenericError as error:
                if "NotPartial" in str(error):  # object_store accepts status 206 only
                    raise NoPieces(name) from None
                raise
        received = start
        for block in self._blocks(name, answer):
            received += len(block)
            yield block
        if received < end:
            raise Interrupted(f"The object {name!r} broke off.", "Run the same step again.")

    def _blocks(self, name: str, answer: Any) -> Iterator[Buffer]:
        chunks = iter(answer.stream(min_chunk_size=_BLOCK_BYTES))
        while True:
            with reporting(f"read {name!r}", self._address, body=True):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield memoryview(chunk)

    def _key(self, name: str) -> str:
        return self._address.key(name)


def _open_store(connection: Connection) -> Any:
    from obstore.store import S3Store

    options = connection.options
    client_options: dict[str, Any] = {
        "allow_http": connection.endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=options.connect_timeout_seconds),
        "timeout": timedelta(seconds=options.read_timeout_seconds * 5),
        "read_timeout": timedelta(seconds=options.read_timeout_seconds),
    }
    if not options.verify_tls:
        client_options["allow_invalid_certificates"] = True
    elif connection.ca_bundle and connection.endpoint.startswith("https://"):
        client_options["root_certificate"] = _certificate(connection.ca_bundle)
    config: dict[str, Any] = {
        "region": connection.client.meta.region_name or "us-east-1",
        "endpoint": _endpoint(connection),
        "virtual_hosted_style_request": not connection.path_style,
        "checksum_algorithm": "SHA256",
    }
    return S3Store(
        connection.address.bucket,
        config=config,
        client_options=client_options,
        retry_config={
            "max_retries": options.max_retries,
            "retry_timeout": timedelta(seconds=options.read_timeout_seconds * 2),
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
        },
        credential_provider=_credentials_of(connection.session),
    )


def _certificate(path: str) -> bytes:
    """Return the one certificate in a CA bundle; object_store takes no more than one."""
    data = Path(path).read_bytes()
    if data.count(b"-----BEGIN CERTIFICATE-----") > 1:
        raise OneCertificateOnly(path)
    return data


def _endpoint(connection: Connection) -> str:
    if connection.path_style:
        return connection.endpoint
    parts = urlsplit(connection.endpoint)
    return urlunsplit(parts._replace(netloc=f"{connection.address.bucket}.{parts.netloc}"))


def _credentials_of(session: Any) -> Callable[[], dict[str, Any]]:
    def provide() -> dict[str, Any]:
        from botocore.exceptions import NoCredentialsError

        credentials = session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(timezone.utc) + _CREDENTIALS_FOR,
        }

    return provide


def open_transfer(connection: Connection) -> Transfer:
    """Return the transfer that the options choose."""
    choice = connection.options.transfer
    if choice != "boto3":
        try:
            return ObstoreTransfer(connection)
        except ImportError as error:
            if choice == "obstore":
                raise MissingExtra("obstore", "s3") from error
        except OneCertificateOnly as error:
            if choice == "obstore":
                raise InvalidInput(
                    f"The CA bundle {str(error)!r} holds several certificates, and obstore trusts one only.",
                    "Name a file with the one that signed the server's, or let boto3 move the bytes.",
                ) from error
            log.info("boto3 moves the bytes: the CA bundle %s holds several certificates", error)
    return BotoTransfer(connection)
