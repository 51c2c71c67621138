"""The lease of a publish: one small document per model and fingerprint.

The document holds the claimed number, so that the next publish of the same bytes continues an interrupted one. The
lease only spares two publishers of the same bytes the double work. That they create one version does not depend on it:
both use the same number, and the manifest is created exclusively.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from uuid import uuid4

from tfs_deploy.clock import Clock, Deadline
from tfs_deploy.errors import Contention, CorruptModel, TFSDeployError
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.store.documents import update
from tfs_deploy.store.object_store.documents import S3StateDocuments

log = logging.getLogger(__name__)

_FIRST_WAIT = 0.05
_LONGEST_WAIT = 2.0


@dataclass(frozen=True, slots=True)
class PublishAttempt:
    """The document ``attempts/<model>/<hex>``; version 0: no number yet; owner ``""``: interrupted, free."""

    version: int = 0
    owner: str = ""


class PublishLease:
    """The lease of one publish; used by many threads."""

    def __init__(
        self, documents: S3StateDocuments, key: str, attempt: PublishAttempt, tag: str, *, clock: Clock, every: float
    ) -> None:
        self._documents = documents
        self._key = key
        self._attempt = attempt
        self._tag = tag
        self._clock = clock
        self._every = every
        self._renewed = clock.monotonic()
        self._lock = threading.Lock()

    @property
    def version(self) -> int:
        """Return the number of the publish, 0 if it has none yet."""
        return self._attempt.version

    @property
    def key(self) -> str:
        """Return the key of the lease's document."""
        return self._key

    @property
    def owner(self) -> str:
        """Return the unique name of this publish."""
        return self._attempt.owner

    def set_version(self, version: int) -> None:
        """Write the claimed number into the lease."""
        with self._lock:
            self._write(replace(self._attempt, version=version))

    def renew(self) -> None:
        """Extend the lease; raise Contention if another publish took it over."""
        with self._lock:
            self._write(self._attempt)

    def renew_when_due(self) -> None:
        """Extend the lease if a quarter of it has passed."""
        if self._clock.monotonic() - self._renewed >= self._every and self._lock.acquire(blocking=False):
            try:
                self._write(self._attempt)
            finally:
                self._lock.release()

    @contextlib.contextmanager
    def held(self) -> Iterator[PublishLease]:
        """Remove the lease after the block; if the block raises, free it for the next publish."""
        try:
            yield self
        except BaseException:
            self._release()
            raise
        with self._lock:
            self._documents.delete(self._key)

    def _release(self) -> None:
        try:
            with self._lock:
                if self._attempt.version:
                    self._write(replace(self._attempt, owner=""))
                else:
                    self._documents.delete(self._key)
        except TFSDeployError as error:
            log.info("The next publish of the same bytes waits until this lease ends: %s", error)

    def _write(self, attempt: PublishAttempt) -> None:
        self._tag = self._documents.write(self._key, to_json(attempt), expected=self._tag)
        self._attempt = attempt
        self._renewed = self._clock.monotonic()


class PublishLeases:
    """The leases of one store."""

    def __init__(self, documents: S3StateDocuments, clock: Clock, *, lease_seconds: float) -> None:
        """A lease that was not extended for `lease_seconds` by the server's clock is free."""
        self._documents = documents
        self._clock = clock
        self._seconds = lease_seconds

    def acquire(self, model: str, digits: str, *, seconds: float) -> Iterator[PublishLease | None]:
        """Yield None while another publish holds the lease, then the lease; raise Contention after `seconds`."""
        key = attempt_key(model, digits)
        deadline = Deadline.after(seconds, self._clock)
        wait = _FIRST_WAIT
        while (lease := self._try(key)) is None:
            if wait == _FIRST_WAIT:
                log.info("Waiting for another publish of the same bytes: %s", key)
            yield None
            if deadline.passed():
                raise Contention(
                    f"Another process has been publishing the same bytes for {seconds:g} s ({key!r}).",
                    "Wait until that publish is done, then run the same step again.",
                )
            self._clock.sleep(min(wait, deadline.remaining() or _FIRST_WAIT))
            wait = min(wait * 2, _LONGEST_WAIT)
        yield lease

    def running_version(self, model: str, digits: str) -> int:
        """Return the version of a running publish of these bytes, 0 if there is none."""
        stored = self._documents.read_with_age(attempt_key(model, digits))
        if stored is None:
            return 0
        attempt = _parse(stored[0].body)
        return attempt.version if attempt.owner and stored[1] < self._seconds else 0

    def may_continue(self, lost: PublishLease) -> bool:
        """Tell whether the document still has the number of a lease that was lost."""
        stored = self._documents.read(lost.key)
        return stored is not None and _parse(stored.body).version == lost.version

    def clear(self, model: str, digits: str, version: int) -> None:
        """Remove the document of a publish that has created `version`."""
        key = attempt_key(model, digits)
        stored = self._documents.read(key)
        if stored is not None and _parse(stored.body).version == version:
            self._documents.delete(key)

    def revoke(self, model: str, digits: str, version: int) -> None:
        """End every publish under `version`, whose files are about to be removed."""

        def ended(attempt: PublishAttempt) -> PublishAttempt:
            return PublishAttempt() if attempt.version == version else attempt

        key = attempt_key(model, digits)
        update(
            self._documents,
            key,
            PublishAttempt,
            ended,
            default=PublishAttempt(),
            clock=self._clock,
            replace_corrupt=True,
        )

    def _try(self, key: str) -> PublishLease | None:
        stored = self._documents.read_with_age(key)
        attempt, tag = PublishAttempt(), None
        if stored is not None:
            attempt, tag = _parse(stored[0].body), stored[0].tag
            if attempt.owner and stored[1] < self._seconds:
                return None
        mine = replace(attempt, owner=uuid4().hex)
        try:
            tag = self._documents.write(key, to_json(mine), expected=tag)
        except Contention:
            return None
        return PublishLease(self._documents, key, mine, tag, clock=self._clock, every=self._seconds / 4)


def attempt_key(model: str, digits: str) -> str:
    """Return the key of the lease's document."""
    return f"attempts/{model}/{digits}"


def _parse(body: bytes) -> PublishAttempt:
    try:
        return from_json(PublishAttempt, body)
    except CorruptModel:
        return PublishAttempt()
