"""Compaction: killed anywhere it can be run again, a reader always reads each record once, and one runs at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deployment.fuse import Fuse, Fused, Killed
from deployment.long_history import CountingDocuments, record_number, write_history
from deployment_names import MODEL
from fakes import FakeClock
from store_fake import FakeStateDocuments
from tfs_deploy.deployment import record_packs, records
from tfs_deploy.deployment.record_log import RecordLog
from tfs_deploy.deployment.record_packs import CLAIM_SECONDS, Compaction, compact
from tfs_deploy.errors import Contention

GROUP = "default"


def pack(documents: Any, *, keep: int = 50, clock: FakeClock | None = None, **more: Any) -> Compaction:
    return compact(documents, GROUP, MODEL, actor="ann", clock=clock or FakeClock(), keep=keep, **more)


def all_records(documents: Any) -> tuple[Any, ...]:
    return records.history(documents, GROUP, MODEL)


def test_a_compaction_packs_all_but_the_newest_records() -> None:
    documents = FakeStateDocuments()
    write_history(documents, GROUP, MODEL, 365, 0)
    before, progress = all_records(documents), []

    assert pack(documents, on_progress=progress.append) == Compaction(MODEL, packed=300, packs=3, remaining=65)

    assert progress == [100, 200, 300]
    assert len(documents.list(f"groups/{GROUP}/records/")) == 65
    assert len(documents.list(f"groups/{GROUP}/record_packs/")) == 3
    assert all_records(documents) == before
    assert pack(documents) == Compaction(MODEL, packed=0, packs=0, remaining=65)
    assert pack(documents, keep=1000).packed == 0


def test_a_compaction_that_is_killed_anywhere_is_run_again_and_no_reader_notices() -> None:
    at, kills, clock = 0, 0, FakeClock()
    while True:
        documents = FakeStateDocuments()
        write_history(documents, GROUP, MODEL, 225, 0)
        before = all_records(documents)

        def watch(documents: FakeStateDocuments = documents, before: tuple[Any, ...] = before) -> None:
            assert all_records(documents) == before
            assert records.latest_move(documents, GROUP, MODEL) == before[222]

        # Every operation is too many for a test that reads the whole log before each.
        fuse = Fuse(at, lambda watch=watch, at=at: watch() if at % 20 == 0 else None)
        try:
            pack(Fused(documents, fuse), clock=clock)
        except Killed:
            kills += 1
        else:
            break
        watch()
        clock.advance(CLAIM_SECONDS)
        assert pack(documents, clock=clock).remaining == 125
        watch()
        assert records.append(documents, record_number(1, GROUP, MODEL)).sequence == 226
        at += 7
    assert kills > 20


def test_a_second_compaction_at_the_same_time_is_refused_before_it_changes_anything() -> None:
    documents, clock = FakeStateDocuments(), FakeClock()
    write_history(documents, GROUP, MODEL, 400, 0)

    def second(packed: int) -> None:
        clock.advance(CLAIM_SECONDS - 1)
        stored = dict(documents.stored)
        with pytest.raises(Contention, match=r"ann compacts the records of model .* the last progress was 59 s ago"):
            pack(documents, clock=clock)
        assert documents.stored == stored
        records.append(documents, record_number(packed, GROUP, MODEL))

    assert pack(documents, clock=clock, on_progress=second).packed == 300
    assert len(all_records(documents)) == 403
    assert pack(documents, clock=clock, keep=0).packed == 100


def test_an_error_in_a_compaction_ends_its_claim() -> None:
    documents = FakeStateDocuments()
    write_history(documents, GROUP, MODEL, 200, 0)

    def fail(packed: int) -> None:
        raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="terminal"):
        pack(documents, on_progress=fail)
    assert pack(documents).remaining == 100


def test_records_that_are_too_large_for_a_pack_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = FakeStateDocuments()
    write_history(documents, GROUP, MODEL, 300, 0)
    before = all_records(documents)
    monkeypatch.setattr(record_packs, "MAX_DOCUMENT_BYTES", 1000)
    assert pack(documents, keep=0) == Compaction(MODEL, packed=0, packs=0, remaining=300)
    assert all_records(documents) == before
    monkeypatch.undo()
    assert pack(documents, keep=0).remaining == 300
    assert all_records(documents) == before


@pytest.mark.parametrize("keep", [0, 50])
def test_a_history_that_is_read_during_a_compaction_has_every_record_once(keep: int) -> None:
    for at in range(0, 120, 13):
        documents = FakeStateDocuments()
        write_history(documents, GROUP, MODEL, 120, 0)
        before = all_records(documents)
        assert all_records(Interrupted(documents, at, lambda documents=documents: pack(documents, keep=keep))) == before


class Interrupted(CountingDocuments):
    """State documents on which something happens before the read with number `at`."""

    def __init__(self, documents: Any, at: int, event: Callable[[], object]) -> None:
        super().__init__(documents)
        self._at = at
        self._event = event

    def read(self, key: str) -> Any:
        if self.calls["read"] == self._at:
            self._event()
        self.calls["read"] += 1
        return self._documents.read(key)


def test_a_log_without_a_head_is_listed_right_while_somebody_packs_it() -> None:
    documents = FakeStateDocuments()
    write_history(documents, GROUP, MODEL, 220, 0)
    before = all_records(documents)
    documents.delete(f"groups/{GROUP}/record_heads/{MODEL}.json")

    class PackedBetweenListings(CountingDocuments):
        """Packs everything after the first listing of a reader that has met no head."""

        def list(self, prefix: str) -> tuple[str, ...]:
            keys = documents.list(prefix)
            if not self.calls["list"]:
                pack(documents, keep=0)
            self.calls["list"] += 1
            return keys

    assert RecordLog(PackedBetweenListings(documents), GROUP, MODEL).end().newer == before
