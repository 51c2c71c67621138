"""Leases: one deployer at a time sends configs to a group, and one at a time moves the labels of a model.

A compare-and-set orders the documents, not the RPCs that follow them: without a lease, a slow deployer could send a
replica an older config after a newer one. Both leases are held for some RPCs only, never during a load, an unload, a
copy or a validation. The lease of a holder that died expires.

Clocks of different machines need not agree. A waiter treats the lease as expired after LEASE_SECONDS without a change
of the document on its own clock; the holder counts from before its write on its own clock.
"""

from __future__ import annotations

import logging
import random
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tfs_deploy.clock import Deadline
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import Contention, TFSDeployError
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.store.protocol import Document

logger = logging.getLogger(__name__)

# Short, because a deployer that restarts after a crash waits until its earlier lease has expired.
LEASE_SECONDS = 15.0
RENEW_SECONDS = LEASE_SECONDS / 3
# A lease that expired so long ago is free at once, because no clock is that wrong.
_LONG_EXPIRED_SECONDS = 300.0
# Holders need a few RPCs, so waiters ask often; random, so that those who met once do not meet again.
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class LeaseDocument:
    """Who holds a lease, for what, since and until when (ISO 8601, UTC); `holder` is empty where it is free."""

    holder: str
    actor: str
    purpose: str
    until: str
    since: str = ""

    def is_free(self, now: datetime) -> bool:
        """Tell whether it was released or expired long ago, by a single read of it."""
        return not self.holder or now > datetime.fromisoformat(self.until) + timedelta(seconds=_LONG_EXPIRED_SECONDS)

    def __str__(self) -> str:
        return f"{self.actor} for {self.purpose} since {self.since or 'an unknown time'}"


class Lease:
    """A lease on `subject`, e.g. ``model 'm'``; call `check` before every RPC that changes a replica."""

    def __init__(self, session: GroupSession, key: str, subject: str, purpose: str) -> None:
        self._session = session
        self._key = key
        self._subject = subject
        self._purpose = purpose
        self._holder = uuid.uuid4().hex
        self._since = ""
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
            f"The lease on {self._subject} ran out before the {self._purpose} was done.",
            "Run the same step again; it continues where this one stopped.",
        )

    def acquire(self) -> None:
        """Wait until the lease is free; raise Contention, which names the holder, after `timeouts.lease` seconds."""
        pauses = LeasePauses(self._session, self._subject)
        while True:
            holder = self.try_acquire()
            if holder is None:
                return
            pauses.wait(holder)

    def try_acquire(self) -> LeaseDocument | None:
        """Take the lease and return None, or return the lease of the holder."""
        documents = self._session.store.documents
        document = documents.read(self._key)
        holder = from_json(LeaseDocument, document.body) if document else None
        if document is not None and holder is not None and not self._is_expired(document, holder):
            return holder
        with self._lock:
            self._since = self._session.clock.now().isoformat()
            try:
                self._write(document.tag if document else None)
            except Contention:
                return holder or LeaseDocument("?", "another deployer", "change", self._since, self._since)
        return None

    def _is_expired(self, document: Document, holder: LeaseDocument) -> bool:
        now = self._session.clock.monotonic()
        if self._watched is None or self._watched[0] != document.tag:
            self._watched = (document.tag, now)
        return holder.is_free(self._session.clock.now()) or now - self._watched[1] >= LEASE_SECONDS

    def _write(self, expected: str | None) -> None:
        now, deadline = self._session.clock.now(), Deadline.after(LEASE_SECONDS, self._session.clock)
        until = now + timedelta(seconds=LEASE_SECONDS)
        document = self._document(until)
        self._tag = self._session.store.documents.write(self._key, to_json(document), expected=expected)
        self._until, self._deadline = until, deadline

    def _document(self, until: datetime) -> LeaseDocument:
        return LeaseDocument(self._holder, self._session.actor, self._purpose, until.isoformat(), self._since)

    def renew(self) -> None:
        """Extend the lease; raise Contention if another deployer took it, and then `check` does so too."""
        with self._lock:
            try:
                self._write(self._tag)
            except Contention:
                current = self._session.store.documents.read(self._key)
                if current is None or from_json(LeaseDocument, current.body).holder != self._holder:
                    self._deadline = Deadline(self._session.clock.monotonic(), self._session.clock)
                    raise
                # The answer to an earlier write of this holder was lost.
                self._write(current.tag)

    def release(self) -> None:
        """Release the lease; one that was lost is left to its new holder."""
        with self._lock:
            free = replace(self._document(self._session.clock.now()), holder="")
            try:
                self._session.store.documents.write(self._key, to_json(free), expected=self._tag)
            except TFSDeployError as error:
                logger.warning("The lease on %s was not released: %s", self._subject, error)


class LeasePauses:
    """The pauses of somebody who waits for a lease: growing, random, logged, and over after `timeouts.lease`."""

    def __init__(self, session: GroupSession, subject: str) -> None:
        self._clock = session.clock
        self._subject = subject
        self._deadline = Deadline.after(session.timeouts.lease, session.clock)
        self._longest = _FIRST_PAUSE_SECONDS
        self._logged = ""

    def wait(self, holder: LeaseDocument) -> None:
        """Pause once; raise Contention, which names `holder`, when the time is up."""
        if self._deadline.passed():
            raise Contention(f"{self._subject.capitalize()} is held by {holder}.", "Try again when that is done.")
        if holder.holder != self._logged:
            self._logged = holder.holder
            logger.info("Waiting for %s, which is held by %s", self._subject, holder)
        self._clock.sleep(min(self._longest * random.uniform(0.5, 1.0), self._deadline.remaining()))  # noqa: S311
        self._longest = min(2.0 * self._longest, _LONGEST_PAUSE_SECONDS)


def group_lease(session: GroupSession, purpose: str) -> Lease:
    """Return the lease under which configs are sent to the replicas of the group."""
    return Lease(session, f"groups/{session.group.name}/lease.json", f"group {session.group.name!r}", purpose)


def model_lease(session: GroupSession, model: str, purpose: str) -> Lease:
    """Return the lease under which the labels of one model are moved."""
    key = f"groups/{session.group.name}/leases/{model}.json"
    return Lease(session, key, f"model {model!r} of group {session.group.name!r}", purpose)


@contextmanager
def hold(lease: Lease) -> Iterator[Lease]:
    """Acquire `lease` and hold it for the block."""
    lease.acquire()
    with kept(lease):
        yield lease


@contextmanager
def kept(lease: Lease) -> Iterator[Lease]:
    """Keep an acquired `lease` for the block, and release it."""
    try:
        with renewed(lease):
            yield lease
    finally:
        lease.release()


@contextmanager
def renewed(lease: Lease) -> Iterator[None]:
    """Let a thread renew `lease` every third of its time for the block."""
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(RENEW_SECONDS):
            try:
                lease.renew()
            except TFSDeployError as error:
                logger.warning("A lease was not renewed: %s", error)

    renewal = threading.Thread(target=renew, name="lease-renewal", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        stop.set()
        renewal.join()
