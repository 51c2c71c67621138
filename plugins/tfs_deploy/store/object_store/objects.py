"""Small objects, conditional writes and listings, by boto3; raises the errors of tfs_deploy."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import tenacity

from tfs_deploy.clock import Clock
from tfs_deploy.errors import StoreError
from tfs_deploy.store.object_store.connection import Connection
from tfs_deploy.store.object_store.errors import Interrupted, MissingObject, PreconditionFailed, reporting

T = TypeVar("T")

# The limit of one request to delete many (Amazon S3 API reference, DeleteObjects).
_DELETE_AT_ONCE = 1000
# Attempts of what boto3 does not repeat itself: a body that is cut off, a conditional write that collided.
TRIES = 4
LONGEST_WAIT_SECONDS = 2.0
# A conditional write is refused with 409 while another one to the same object runs; there may be many.
CONDITIONAL_TRIES = 12


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as it was read; ``age_seconds`` is by the server's own clock."""

    body: bytes
    etag: str
    metadata: Mapping[str, str]
    age_seconds: float


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """What is known of an object without its bytes."""

    size: int
    etag: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One row of a listing; ``name`` is that in the store."""

    name: str
    size: int
    modified: datetime


class Objects:
    """The objects below a store's prefix; a name is the part of the key behind the prefix.

    `bare_etags`: the server wants the ETag of a condition without its quotes (Ceph before 17), as
    `ConditionalWriteCheck` finds out.
    """

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self.address = connection.address
        self._client = connection.client
        self._clock = clock
        self.bare_etags = False

    def get(self, name: str, *, limit: int | None = None) -> StoredObject | None:
        """Return an object with its bytes, or None; StoreError if it has more than `limit` bytes."""
        try:
            return self.repeating(lambda: self._get(name, limit))
        except MissingObject:
            return None

    def head(self, name: str) -> ObjectHead | None:
        """Return what is known of an object, or None."""
        try:
            with reporting(f"read the head of {name!r}", self.address):
                found = self._client.head_object(**self._at(name))
        except MissingObject:
            return None
        return ObjectHead(int(found["ContentLength"]), str(found["ETag"]), dict(found.get("Metadata", {})))

    def put(self, name: str, body: bytes, *, metadata: Mapping[str, str] | None = None) -> str:
        """Write or overwrite an object and return its ETag."""
        return self._put(name, body, metadata, {})

    def create(self, name: str, body: bytes, *, metadata: Mapping[str, str] | None = None) -> str:
        """Write an object that must not exist and return its ETag; raise PreconditionFailed if it does."""
        return self._put_if(name, body, metadata, {"IfNoneMatch": "*"})

    def replace(self, name: str, body: bytes, *, etag: str, metadata: Mapping[str, str] | None = None) -> str:
        """Write an object whose ETag must be `etag` and return the new one; raise PreconditionFailed otherwise."""
        try:
            return self._put_if(name, body, metadata, {"IfMatch": etag.strip('"') if self.bare_etags else etag})
        except MissingObject as error:
            raise PreconditionFailed(name) from error

    def delete(self, name: str) -> None:
        """Remove an object; no error if there is none."""
        # Amazon's says nothing of an object that is not there, other servers say 404.
        with contextlib.suppress(MissingObject), reporting(f"delete {name!r}", self.address):
            self._client.delete_object(**self._at(name))

    def delete_all(self, names: Iterable[str]) -> None:
        """Remove many objects, in as few requests as the server allows."""
        pending = list(names)
        for start in range(0, len(pending), _DELETE_AT_ONCE):
            self._delete_batch(pending[start : start + _DELETE_AT_ONCE])

    def list(self, prefix: str, *, limit: int | None = None) -> Iterator[ListedObject]:
        """Yield the objects whose names start with `prefix`, in the order of their names, at most `limit`."""
        cut = len(self.address.key(""))
        for page in self._pages(prefix, "", limit):
            for row in page.get("Contents", []):
                yield ListedObject(row["Key"][cut:], int(row["Size"]), row["LastModified"])

    def folders(self, prefix: str, *, limit: int | None = None) -> Iterator[str]:
        """Yield the names between `prefix` and the next slash, each once, at most `limit`."""
        cut = len(self.address.key(prefix))
        for page in self._pages(prefix, "/", limit):
            for row in page.get("CommonPrefixes", []):
                yield row["Prefix"][cut:-1]

    def exists_in_bucket(self, prefix: str) -> bool:
        """Tell whether any object of the whole bucket starts with `prefix`."""
        with reporting("list the bucket", self.address):
            page = self._client.list_objects_v2(Bucket=self.address.bucket, Prefix=prefix, MaxKeys=1)
        return bool(page.get("Contents"))

    def abort_uploads(self, prefix: str) -> None:
        """Drop unfinished multipart uploads of objects whose names start with `prefix`."""
        with reporting("list unfinished uploads", self.address):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.address.bucket, Prefix=self.address.key(prefix)
            )
            uploads = [(row["Key"], row["UploadId"]) for page in pages for row in page.get("Uploads", [])]
        for key, upload in uploads:
            try:
                with reporting("drop an unfinished upload", self.address):
                    self._client.abort_multipart_upload(Bucket=self.address.bucket, Key=key, UploadId=upload)
            except (MissingObject, StoreError):
                continue  # dropped or completed meanwhile

    def seconds_since(self, when: datetime) -> float:
        """Return the seconds since `when` by this machine's clock."""
        return (self._clock.now() - when.astimezone(timezone.utc)).total_seconds()

    def repeating(self, work: Callable[[], T]) -> T:
        """Call `work`, again after an answer that was cut off, at most TRIES times."""
        return self.retrying()(work)

    def retrying(self, *, tries: int = TRIES) -> tenacity.Retrying:
        """Return a retry of Interrupted with growing, random pauses."""
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Interrupted),
            stop=tenacity.stop_after_attempt(tries),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=LONGEST_WAIT_SECONDS),
            sleep=self._clock.sleep,
            reraise=True,
        )

    def _get(self, name: str, limit: int | None) -> StoredObject:
        with reporting(f"read {name!r}", self.address):
            found = self._client.get_object(**self._at(name))
            size = int(found["ContentLength"])
            if limit is not None and size > limit:
                found["Body"].close()
                raise StoreError(
                    f"The object {self.address.key(name)!r} has {size} bytes, more than {limit}.",
                    "It was not written by tfs_deploy: move it away.",
                )
        with reporting(f"read {name!r}", self.address, body=True):
            body = found["Body"].read()
        if len(body) != size:
            raise Interrupted(f"The object {self.address.key(name)!r} broke off.", "Run the same step again.")
        return StoredObject(body, str(found["ETag"]), dict(found.get("Metadata", {})), self._age(found))

    def _age(self, found: Mapping[str, Any]) -> float:
        modified: datetime = found["LastModified"]
        date = found["ResponseMetadata"]["HTTPHeaders"].get("date")
        try:
            return (parsedate_to_datetime(date) - modified).total_seconds() if date else self.seconds_since(modified)
        except (TypeError, ValueError):
            return self.seconds_since(modified)

    def _put(self, name: str, body: bytes, metadata: Mapping[str, str] | None, condition: dict[str, str]) -> str:
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        with reporting(f"write {name!r}", self.address):
            written = self._client.put_object(
                **self._at(name), Body=body, Metadata=dict(metadata or {}), ChecksumSHA256=digest, **condition
            )
        return str(written["ETag"])

    def _put_if(self, name: str, body: bytes, metadata: Mapping[str, str] | None, condition: dict[str, str]) -> str:
        tries = 0

        def put() -> str:
            nonlocal tries
            tries += 1
            return self._put(name, body, metadata, condition)

        try:
            return self.retrying(tries=CONDITIONAL_TRIES)(put)
        except PreconditionFailed as error:
            # A write whose answer was lost is sent again and then refused because of its own first request.
            found = self.get(name) if error.repeated or tries > 1 else None
            if found is not None and found.body == body and dict(found.metadata) == dict(metadata or {}):
                return found.etag
            raise

    def _delete_batch(self, names: Sequence[str]) -> None:
        rows = [{"Key": self.address.key(name)} for name in names]
        try:
            with reporting("delete objects", self.address):
                answer = self._client.delete_objects(
                    Bucket=self.address.bucket, Delete={"Objects": rows, "Quiet": True}
                )
        except (StoreError, MissingObject):
            answer = {"Errors": rows}  # some servers cannot delete many at once
        # One by one, so that each error is reported as usual.
        cut = len(self.address.key(""))
        for row in answer.get("Errors", []):
            self.delete(row["Key"][cut:])

    def _pages(self, prefix: str, delimiter: str, limit: int | None) -> Iterator[Mapping[str, Any]]:
        arguments: dict[str, Any] = {"Bucket": self.address.bucket, "Prefix": self.address.key(prefix)}
        if delimiter:
            arguments["Delimiter"] = delimiter
        if limit is not None:
            arguments["PaginationConfig"] = {"MaxItems": limit, "PageSize": min(limit, 1000)}
        pages = iter(self._client.get_paginator("list_objects_v2").paginate(**arguments))
        while True:
            with reporting(f"list what starts with {prefix!r}", self.address):
                page = next(pages, None)
            if page is None:
                return
            yield page

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self.address.bucket, "Key": self.address.key(name)}
