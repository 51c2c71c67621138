"""The lease of a serving group: one deployer at a time sends configs; held in a state document and renewed.

A compare-and-set orders the documents, not the RPCs that follow them: without the lease, a slow deployer could send a
replica an older config after a newer one. The lease of a holder that died expires.

Clocks of different machines need not agree. A waiter treats the lease as expired after LEASE_SECONDS without a change
of the document on its own clock; the holder counts from before its write on its own clock.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from tfs_deploy.clock import Deadline
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import Contention, TFSDeployError
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.store.protocol import Document

logger = logging.getLogger(__name__)

# Short, because a deployer that restarts after a crash waits until its earlier lease has expired.
LEASE_SECONDS = 15.0
_RENEW_SECONDS = LEASE_SECONDS / 3
# A lease that expired so long ago is free at once, because no clock is that wrong.
_LONG_EXPIRED_SECONDS = 300.0
_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _LeaseDocument:
    holder: str
    actor: str
    purpose: str
    until: str

    def is_free(self, now: datetime) -> bool:
        """Tell whether it was released or expired long ago, by a single read of it."""
        return not self.holder or now > datetime.fromisoformat(self.until) + timedelta(seconds=_LONG_EXPIRED_SECONDS)


class Lease:
    """A held lease; call `check` before every RPC that changes a replica."""

    def __init__(self, session: GroupSession, purpose: str) -> None:
        self._session = session
        self._key = f"groups/{session.group.name}/lease.json"
        self._holder = uuid.uuid4().hex
        self._purpose = purpose
        self._tag: str | None = None
        # Two clocks: the wall clock may be set back, the monotonic one stops while a machine sleeps.
        self._until = session.clock.now()
        self._deadline = Deadline(session.clock.monotonic(), session.clock)
        self._watched: tuple[str, float] | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise Contention if the lease has expired, so that no stale config is sent."""
        with self._lock:
            if self._session.clock.now() < self._until and not self._deadline.passed():
                return
        raise Contention(
            f"The lease on group {self._session.group.name!r} ran out before the {self._purpose} was done.",
            "Run the same step again; it continues where this one stopped.",
        )

    def acquire(self) -> None:
        """Wait until the group is free; raise Contention, which names the holder, after `timeouts.lease` seconds."""
        deadline = Deadline.after(self._session.timeouts.lease, self._session.clock)
        while True:
            holder = self._try_acquire()
            if holder is None:
                return
            if deadline.passed():
                raise Contention(
                    f"Group {self._session.group.name!r} is held by {holder.actor} for {holder.purpose} "
                    f"until {holder.until}.",
                    "Try again when that is done.",
                )
            self._session.clock.sleep(_POLL_SECONDS)

    def _try_acquire(self) -> _LeaseDocument | None:
        """Take the lease and return None, or return the lease of the holder."""
        documents = self._session.store.documents
        document = documents.read(self._key)
        holder = from_json(_LeaseDocument, document.body) if document else None
        if document is not None and holder is not None and not self._is_expired(document, holder):
            return holder
        with self._lock:
            try:
                self._write(document.tag if document else None)
            except Contention:
                return holder or _LeaseDocument("", "another deployer", "a change", "now")
        return None

    def _is_expired(self, document: Document, holder: _LeaseDocument) -> bool:
        now = self._session.clock.monotonic()
        if self._watched is None or self._watched[0] != document.tag:
            self._watched = (document.tag, now)
        return holder.is_free(self._session.clock.now()) or now - self._watched[1] >= LEASE_SECONDS

    def _write(self, expected: str | None) -> None:
        now, deadline = self._session.clock.now(), Deadline.after(LEASE_SECONDS, self._session.clock)
        until = now + timedelta(seconds=LEASE_SECONDS)
        document = _LeaseDocument(self._holder, self._session.actor, self._purpose, until.isoformat())
        self._tag = self._session.store.documents.write(self._key, to_json(document), expected=expected)
        self._until, self._deadline = until, deadline

    def renew(self) -> None:
        """Extend the lease; raise Contention if another deployer took it, and then `check` does so too."""
        with self._lock:
            try:
                self._write(self._tag)
            except Contention:
                current = self._session.store.documents.read(self._key)
                if current is None or from_json(_LeaseDocument, current.body).holder != self._holder:
                    self._deadline = Deadline(self._session.clock.monotonic(), self._session.clock)
                    raise
                # The answer to an earlier write of this holder was lost.
                self._write(current.tag)

    def release(self) -> None:
        """Release the lease; one that was lost is left to its new holder."""
        with self._lock:
            free = _LeaseDocument("", self._session.actor, self._purpose, self._session.clock.now().isoformat())
            try:
                self._session.store.documents.write(self._key, to_json(free), expected=self._tag)
            except TFSDeployError as error:
                logger.warning("The lease on group %s was not released: %s", self._session.group.name, error)


@contextmanager
def hold(session: GroupSession, purpose: str) -> Iterator[Lease]:
    """Hold the group's lease for the block; a thread renews it."""
    lease = Lease(session, purpose)
    lease.acquire()
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(_RENEW_SECONDS):
            try:
                lease.renew()
            except TFSDeployError as error:
                logger.warning("The lease on group %s was not renewed: %s", session.group.name, error)

    renewal = threading.Thread(target=renew, name=f"lease-{session.group.name}", daemon=True)
    renewal.start()
    try:
        yield lease
    finally:
        stop.set()
        renewal.join()
        lease.release()
