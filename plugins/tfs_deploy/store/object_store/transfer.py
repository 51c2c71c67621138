"""Transfer of file contents: the protocol, the sizes of parts, and the implementation by boto3."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeAlias

from tfs_deploy.errors import TFSDeployError
from tfs_deploy.store.download.state import NoPieces
from tfs_deploy.store.object_store.address import DIGEST_METADATA
from tfs_deploy.store.object_store.connection import Connection
from tfs_deploy.store.object_store.errors import Interrupted, MissingObject, reporting

# S3 takes parts from 5 MiB up, at most 10,000 of them (Amazon S3 user guide, "Multipart upload limits").
PART_BYTES = 8 << 20
_MOST_PARTS = 9_000
# Parts of one large file that are sent at a time; with PART_BYTES this bounds the memory.
PARTS_AT_ONCE = 4

Buffer: TypeAlias = "bytes | memoryview"


class Transfer(Protocol):
    """Reads and writes objects and ranges of them; raises our errors, MissingObject for a missing object."""

    def put(self, name: str, body: Buffer, *, sha256: str) -> None:
        """Write an object; the store compares the digest (hex) where it can."""

    def put_parts(self, name: str, parts: Iterator[memoryview], *, sha256: str, part_bytes: int) -> None:
        """Write an object from its parts, all of `part_bytes` but the last; nothing is visible before the end."""

    def get(self, name: str, *, size: int) -> Buffer:
        """Return a whole object that should have `size` bytes; raise MissingObject, unread, if it has more."""

    def range(self, name: str, start: int, end: int) -> Iterator[Buffer]:
        """Yield the bytes from `start` to before `end`.

        Raises NoPieces, before the first block, if the server gives no pieces; Interrupted if it ends too early.
        A block may be overwritten by the next one.
        """

    def stream(self, name: str) -> Iterator[Buffer]:
        """Yield the bytes of a whole object in order; for servers that give no pieces."""


def part_bytes_for(size: int) -> int:
    """Return the size of the parts of a file of `size` bytes, a multiple of 1 MiB."""
    least = -(-size // _MOST_PARTS)
    return max(PART_BYTES, -(-least // (1 << 20)) << 20)


# Fits a core's cache.
_BLOCK_BYTES = 256 << 10


class BotoTransfer:
    """Moves bytes by boto3's client."""

    def __init__(self, connection: Connection) -> None:
        self._client = connection.client
        self._address = connection.address

    def put(self, name: str, body: Buffer, *, sha256: str) -> None:
        with reporting(f"write {name!r}", self._address):
            self._client.put_object(
                **self._at(name),
                Body=bytes(body),
                Metadata={DIGEST_METADATA: sha256},
                ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(),
            )

    def put_parts(self, name: str, parts: Iterator[memoryview], *, sha256: str, part_bytes: int) -> None:
        with reporting(f"begin to write {name!r}", self._address):
            upload = self._client.create_multipart_upload(
                **self._at(name), Metadata={DIGEST_METADATA: sha256}, ChecksumAlgorithm="SHA256"
            )["UploadId"]
        try:
            sent = self._send_parts(name, upload, parts)
            with reporting(f"finish {name!r}", self._address):
                self._client.complete_multipart_upload(
                    **self._at(name), UploadId=upload, MultipartUpload={"Parts": sent}
                )
        except BaseException:
            # The original error is raised; the next publish under this number drops the parts as well.
            with (
                contextlib.suppress(TFSDeployError, MissingObject),
                reporting(f"drop the parts of {name!r}", self._address),
            ):
                self._client.abort_multipart_upload(**self._at(name), UploadId=upload)
            raise

    def get(self, name: str, *, size: int) -> Buffer:
        with reporting(f"read {name!r}", self._address):
            answer = self._client.get_object(**self._at(name))
        if int(answer["ContentLength"]) > size:
            answer["Body"].close()
            raise MissingObject(name)  # another object than the expected one, which may not fit the memory
        with reporting(f"read {name!r}", self._address, body=True):
            body: bytes = answer["Body"].read()
        if len(body) != int(answer["ContentLength"]):
            raise Interrupted(f"The object {name!r} broke off.", "Run the same step again.")
        return body

    def range(self, name: str, start: int, end: int) -> Iterator[Buffer]:
        with reporting(f"read {name!r}", self._address):
            answer = self._client.get_object(**self._at(name), Range=f"bytes={start}-{end - 1}")
        if not str(answer.get("ContentRange", "")).startswith(f"bytes {start}-"):
            answer["Body"].close()
            raise NoPieces(name)
        view = memoryview(bytearray(min(_BLOCK_BYTES, end - start)))
        at = start
        # Read to its end, so that the connection is free for the next request.
        with reporting(f"read {name!r}", self._address, body=True):
            count = answer["Body"].readinto(view)
        while count:
            at += count
            yield view[:count]
            with reporting(f"read {name!r}", self._address, body=True):
                count = answer["Body"].readinto(view)
        if at < end:
            raise Interrupted(f"The object {name!r} broke off.", "Run the same step again.")

    def stream(self, name: str) -> Iterator[Buffer]:
        with reporting(f"read {name!r}", self._address):
            chunks = self._client.get_object(**self._at(name))["Body"].iter_chunks(PART_BYTES)
        while True:
            with reporting(f"read {name!r}", self._address, body=True):
                chunk: bytes | None = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    def _send_parts(self, name: str, upload: str, parts: Iterator[memoryview]) -> list[dict[str, Any]]:
        def send(number: int, part: memoryview) -> dict[str, Any]:
            # With a digest boto3 sends no trailer after a chunked body, which many servers do not understand.
            digest = base64.b64encode(hashlib.sha256(part).digest()).decode()
            with reporting(f"write part {number} of {name!r}", self._address):
                answer = self._client.upload_part(
                    **self._at(name), UploadId=upload, PartNumber=number, Body=bytes(part), ChecksumSHA256=digest
                )
            row = {"PartNumber": number, "ETag": answer["ETag"]}
            if "ChecksumSHA256" in answer:
                row["ChecksumSHA256"] = answer["ChecksumSHA256"]
            return row

        sent: list[dict[str, Any]] = []
        waiting: deque[Future[dict[str, Any]]] = deque()
        with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="tfs-deploy-parts") as pool:
            for number, part in enumerate(parts, 1):
                waiting.append(pool.submit(send, number, part))
                if len(waiting) >= PARTS_AT_ONCE:
                    sent.append(waiting.popleft().result())
            sent.extend(future.result() for future in waiting)
        return sent

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._address.bucket, "Key": self._address.key(name)}
