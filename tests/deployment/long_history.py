"""Histories of any length, written as documents at once, and documents that count their operations."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Any

from tfs_deploy.deployment.deployment_record import Action, DeploymentRecord
from tfs_deploy.deployment.record_log import PACK_RECORDS, Head, LogEnd, RecordLog, RecordPack
from tfs_deploy.jsonable import to_json

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
# The actions of one version after the other; a version is live from the third one on.
CYCLE = (Action.PUBLISHED, Action.VALIDATED, Action.PROMOTED, Action.REJECTED, Action.PUBLISHED)


class CountingDocuments:
    """State documents that count the calls of each method, and the keys that were listed."""

    def __init__(self, documents: Any) -> None:
        self._documents = documents
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._documents, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            result = method(*args, **kwargs)
            if name == "list":
                self.calls["listed keys"] += len(result)
            return result

        return call


def record_number(sequence: int, group: str, model: str) -> DeploymentRecord:
    """Return one record of a history in which every fifth one, from the third on, is a promotion."""
    turn, place = divmod(sequence - 1, len(CYCLE))
    live_since = 5 * (turn if place >= 2 else turn - 1) + 3
    return DeploymentRecord(
        sequence,
        (START + timedelta(minutes=sequence)).isoformat(),
        group,
        model,
        CYCLE[place],
        turn + 1,
        "ann",
        previous=turn or None,
        replicas=("replica-1:8500", "replica-2:8500"),
        idempotency_key=f"run {turn + 1}" if CYCLE[place] is Action.PROMOTED else "",
        live_since=max(live_since, 0),
    )


def write_history(documents: Any, group: str, model: str, count: int, packed: int) -> None:
    """Write `count` records, a multiple of five, of which the first `packed` are in packs, with their indexes."""
    entries = [record_number(sequence, group, model) for sequence in range(1, count + 1)]
    log = RecordLog(documents, group, model)
    for first in range(1, packed + 1, PACK_RECORDS):
        pack = RecordPack(tuple(entries[first - 1 : first - 1 + PACK_RECORDS]))
        documents.write(log.pack_key(first), to_json(pack), expected=None)
    for entry in entries[packed:]:
        documents.write(log.single_key(entry.sequence), to_json(entry), expected=None)
    before = Head(packed=packed)
    for entry in entries[:-5]:
        before = before.after(entry)
    log.change_head(lambda _: before)
    # The indexes of the newest version are enough for those who ask about it.
    log.index(entries[-5:], LogEnd(before, (), before))
