"""Compaction: old records of a model move into packs, which hold PACK_RECORDS records in one document each.

::

    records in documents of their own ──1──► also in a pack ──2──► head.packed moved ──3──► only in the pack

    1  write the pack, by exclusive create        3  delete the documents of its records
    2  move `packed` of the head past the pack

A reader asks for the record's own document first and for the pack second, above `packed` of the head; below it the
other way round. So at every moment it reads each record once. A compaction that was killed is run again: it writes the
packs that are missing and deletes what is in a pack. Appending goes on meanwhile, because the newest records are never
packed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import uuid4

from tfs_deploy.clock import Clock
from tfs_deploy.deployment.deployment_record import UNKNOWN_SEQUENCE, DeploymentRecord
from tfs_deploy.deployment.record_log import PACK_RECORDS, Head, LogEnd, RecordLog, RecordPack
from tfs_deploy.deployment.records import live_since, live_version
from tfs_deploy.errors import Contention
from tfs_deploy.jsonable import to_json
from tfs_deploy.store.documents import update
from tfs_deploy.store.protocol import MAX_DOCUMENT_BYTES, StateDocuments

# What is asked for often, and what a slow writer may still be about to write, stays in documents of its own.
KEEP_RECORDS = 1000
# A compaction takes note of its progress after every pack, which takes seconds on a slow store.
CLAIM_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Compaction:
    """What one compaction did: how many records it packed into how many packs, and how many have their own document."""

    model: str
    packed: int
    packs: int
    remaining: int


@dataclass(frozen=True, slots=True)
class CompactionClaim:
    """Who compacts the records of a model; `nonce` is empty if nobody does, `at` is the last progress, ISO 8601."""

    actor: str = ""
    at: str = ""
    nonce: str = ""


def compact(
    documents: StateDocuments,
    group: str,
    model: str,
    *,
    actor: str,
    clock: Clock,
    keep: int = KEEP_RECORDS,
    on_progress: Callable[[int], None] = lambda packed: None,
) -> Compaction:
    """Pack all records of `model` but the newest `keep` and those that fill no pack; `on_progress` gets their number.

    Raises Contention, with nothing changed, if another process compacts the same records.
    """
    log = RecordLog(documents, group, model, clock=clock)
    with _claimed(documents, group, model, actor=actor, clock=clock) as renew:
        head = log.index_all(log.end()).head
        _delete_packed(log, head)
        packed = packs = 0
        while head.packed + PACK_RECORDS <= head.sequence - keep:
            renew()
            first = head.packed + 1
            entries = _write_pack(log, first, head)
            head = log.change_head(functools.partial(_packed_up_to, first + PACK_RECORDS - 1))
            for entry in entries:
                log.delete_single(entry.sequence)
            packed, packs = packed + len(entries), packs + bool(entries)
            on_progress(packed)
        return Compaction(model, packed, packs, len(log.single_sequences()))


def _write_pack(log: RecordLog, first: int, head: Head) -> tuple[DeploymentRecord, ...]:
    """Write the pack that begins with record `first`, and return its records; none if it would be too large."""
    end = LogEnd(head, (), head)
    before = log.read_at_end(first - 1, end)
    since = 0 if before is None else live_since(log, before, end)
    live = Head(live_since=since, live_version=live_version(log, since, end))
    entries = []
    for sequence in range(first, first + PACK_RECORDS):
        entry = log.read(sequence, head)
        if entry is not None:
            live = live.after(entry)
            # Records from before there was this field get it here.
            is_old = entry.live_since == UNKNOWN_SEQUENCE
            entries.append(replace(entry, live_since=live.live_since) if is_old else entry)
    body = to_json(RecordPack(tuple(entries)))
    if len(body) > MAX_DOCUMENT_BYTES:
        return ()
    # A compaction that was killed may have written it: records never change.
    with suppress(Contention):
        log.documents.write(log.pack_key(first), body, expected=None)
    return tuple(entries)


def _delete_packed(log: RecordLog, head: Head) -> None:
    """Delete the documents of records that are in packs, which a compaction that was killed has left."""
    for sequence in log.single_sequences():
        if sequence <= head.packed and log.read_packed(sequence) is not None:
            log.delete_single(sequence)


def _packed_up_to(sequence: int, current: Head) -> Head:
    return replace(current, packed=max(current.packed, sequence))


@contextmanager
def _claimed(
    documents: StateDocuments, group: str, model: str, *, actor: str, clock: Clock
) -> Iterator[Callable[[], None]]:
    """Hold the claim on a compaction for the block, and yield what renews it; raise Contention if another one does.

    Two compactions at once lose nothing, so wrong clocks do no harm: the claim keeps their work apart.
    """
    key, nonce = f"groups/{group}/record_compactions/{model}.json", uuid4().hex

    def renewed(current: CompactionClaim) -> CompactionClaim:
        idle = (clock.now() - datetime.fromisoformat(current.at)).total_seconds() if current.nonce else CLAIM_SECONDS
        if current.nonce != nonce and abs(idle) < CLAIM_SECONDS:
            raise Contention(
                f"{current.actor} compacts the records of model {model!r} in group {group!r} already; the last "
                f"progress was {max(idle, 0.0):.0f} s ago.",
                f"Wait until that ends; if it was killed, run again {CLAIM_SECONDS:.0f} s after its last progress.",
            )
        return CompactionClaim(actor, clock.now().isoformat(), nonce)

    def released(current: CompactionClaim) -> CompactionClaim:
        return CompactionClaim() if current.nonce == nonce else current

    def write(change: Callable[[CompactionClaim], CompactionClaim]) -> None:
        update(documents, key, CompactionClaim, change, default=CompactionClaim(), clock=clock)

    write(renewed)
    try:
        yield lambda: write(renewed)
    finally:
        write(released)
