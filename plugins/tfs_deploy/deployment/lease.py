"""One deployer at a time per serving group: a lease in a state document, kept alive while it is held.

A compare-and-set alone orders the documents, not the RPCs that follow them: without the lease, a slow deployer could
send a replica an older config after a newer one. A holder that dies loses the lease when its time is up.

No two machines' clocks have to agree: a lease is over when its document has not changed for as long as a lease runs,
by the clock of whoever waits for it, and its holder counts from before the write by his own.
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

# Short, because a deployer that starts again after a crash has to wait for the end of its former self's lease.
LEASE_SECONDS = 15.0
_RENEW_SECONDS = LEASE_SECONDS / 3
# A lease that is over for so long is free at once, because no clock is that wrong.
_LONG_OVER_SECONDS = 300.0
_LOOK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _LeaseDocument:
    holder: str
    actor: str
    purpose: str
    until: str

    def is_over(self, now: datetime) -> bool:
        """Tell whether nobody holds it, without having watched it."""
        return not self.holder or now > datetime.fromisoformat(self.until) + timedelta(seconds=_LONG_OVER_SECONDS)


class Lease:
    """A lease that is held; ask `check` before every RPC that changes a replica."""

    def __init__(self, session: GroupSession, purpose: str) -> None:
        self._session = session
        self._key = f"groups/{session.group.name}/lease.json"
        self._holder = uuid.uuid4().hex
        self._purpose = purpose
        self._tag: str | None = None
        # Two clocks: one may be set back, the other stands still while a machine sleeps.
        self._until = session.clock.now()
        self._deadline = Deadline(session.clock.monotonic(), session.clock)
        self._watched: tuple[str, float] | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise Contention if the lease was lost, so that no stale config is sent."""
        with self._lock:
            if self._session.clock.now() < self._until and not self._deadline.passed():
                return
        raise Contention(
            f"The lease on group {self._session.group.name!r} ran out before the {self._purpose} was done.",
            "Run the same step again; it continues where this one stopped.",
        )

    def acquire(self) -> None:
        """Wait until the group is free; raise Contention naming the holder after the lease timeout."""
        deadline = Deadline.after(self._session.timeouts.lease, self._session.clock)
        while True:
            holder = self._try_once()
            if holder is None:
                return
            if deadline.passed():
                raise Contention(
                    f"Group {self._session.group.name!r} is held by {holder.actor} for {holder.purpose} "
                    f"until {holder.until}.",
                    "Try again when that is done.",
                )
            self._session.clock.sleep(_LOOK_AGAIN_SECONDS)

    def _try_once(self) -> _LeaseDocument | None:
        documents = self._session.store.documents
        held = documents.read(self._key)
        holder = from_json(_LeaseDocument, held.body) if held else None
        if held is not None and holder is not None and not self._is_over(held, holder):
            return holder
        with self._lock:
            try:
                self._write(held.tag if held else None)
            except Contention:
                return holder or _LeaseDocument("", "another deployer", "a change", "now")
        return None

    def _is_over(self, held: Document, holder: _LeaseDocument) -> bool:
        now = self._session.clock.monotonic()
        if self._watched is None or self._watched[0] != held.tag:
            self._watched = (held.tag, now)
        return holder.is_over(self._session.clock.now()) or now - self._watched[1] >= LEASE_SECONDS

    def _write(self, expected: str | None) -> None:
        now, deadline = self._session.clock.now(), Deadline.after(LEASE_SECONDS, self._session.clock)
        until = now + timedelta(seconds=LEASE_SECONDS)
        document = _LeaseDocument(self._holder, self._session.actor, self._purpose, until.isoformat())
        self._tag = self._session.store.documents.write(self._key, to_json(document), expected=expected)
        self._until, self._deadline = until, deadline

    def renew(self) -> None:
        """Extend the lease; raise Contention if somebody else took it, and then `check` does so too."""
        with self._lock:
            try:
                self._write(self._tag)
            except Contention:
                held = self._session.store.documents.read(self._key)
                if held is None or from_json(_LeaseDocument, held.body).holder != self._holder:
                    self._deadline = Deadline(self._session.clock.monotonic(), self._session.clock)
                    raise
                # A write of ours whose answer was lost.
                self._write(held.tag)

    def release(self) -> None:
        """Give the group free; a lease that was lost is left to its new holder."""
        with self._lock:
            free = _LeaseDocument("", self._session.actor, self._purpose, self._session.clock.now().isoformat())
            try:
                self._session.store.documents.write(self._key, to_json(free), expected=self._tag)
            except TFSDeployError as error:
                logger.warning("The lease on group %s was not given back: %s", self._session.group.name, error)


@contextmanager
def hold(session: GroupSession, purpose: str) -> Iterator[Lease]:
    """Hold the group's lease for the block, renewed by a thread of its own."""
    lease = Lease(session, purpose)
    lease.acquire()
    stop = threading.Event()

    def keep() -> None:
        while not stop.wait(_RENEW_SECONDS):
            try:
                lease.renew()
            except TFSDeployError as error:
                logger.warning("The lease on group %s was not renewed: %s", session.group.name, error)

    keeper = threading.Thread(target=keep, name=f"lease-{session.group.name}", daemon=True)
    keeper.start()
    try:
        yield lease
    finally:
        stop.set()
        keeper.join()
        lease.release()
