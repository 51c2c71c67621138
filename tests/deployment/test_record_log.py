"""The log of records: no gap, no duplicate and right answers, whoever writes, dies or compacts at the same time."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployment.interleaving import Turn, interleave
from deployment.long_history import CountingDocuments, write_history
from deployment_names import MODEL
from fakes import FakeClock
from store_fake import FakeStateDocuments
from tfs_deploy.deployment import record_log, record_packs, records
from tfs_deploy.deployment.record_log import RecordLog, RecordPack
from tfs_deploy.deployment.record_packs import CLAIM_SECONDS, compact
from tfs_deploy.deployment.records import MOVES_STABLE, Action, DeploymentRecord
from tfs_deploy.errors import Contention
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.store.open import open_store

GROUP = "default"
START = FakeClock().now()


def record(action: Action, version: int, *, name: str = "", key: str = "", at: Any = START) -> DeploymentRecord:
    return DeploymentRecord(0, at.isoformat(), GROUP, MODEL, action, version, "ann", reason=name, idempotency_key=key)


def plain_scan(documents: FakeStateDocuments) -> list[DeploymentRecord]:
    """Return all records without a head and without an index: what is in a pack, and what is not."""
    entries: dict[int, DeploymentRecord] = {}
    for key in documents.list(f"groups/{GROUP}/records/{MODEL}/"):
        entry = from_json(DeploymentRecord, documents.read(key).body)
        entries[entry.sequence] = entry
    for key in documents.list(f"groups/{GROUP}/record_packs/{MODEL}/"):
        entries |= {entry.sequence: entry for entry in from_json(RecordPack, documents.read(key).body).records}
    return [entries[sequence] for sequence in sorted(entries)]


class Group:
    """As much of a session as `find_by_key` takes."""

    name = GROUP

    def __init__(self, documents: FakeStateDocuments) -> None:
        self.documents = documents
        self.store = self.group = self


def check_answers(documents: FakeStateDocuments) -> None:
    """Compare every answer of the records with a plain scan of them."""
    entries = plain_scan(documents)
    moves = [entry for entry in entries if entry.action in MOVES_STABLE]
    assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1)), "there is no gap"
    assert list(records.history(documents, GROUP, MODEL)) == entries
    assert records.latest_move(documents, GROUP, MODEL) == (moves[-1] if moves else None)
    for version in VERSIONS:
        assert records.mentions(documents, GROUP, MODEL, version) == any(each.version == version for each in entries)
    log = RecordLog(documents, GROUP, MODEL)
    for key in KEYS:
        last = next((entry.sequence for entry in reversed(moves) if entry.idempotency_key == key), 0)
        assert log.last_with_key(key, log.end()) == last
    once = [entry.version for entry in entries if entry.action is Action.REJECTED]
    assert len(once) == len(set(once)), "there is no second record of the same rejection"
    names = [entry.reason for entry in entries]
    assert len(names) == len(set(names)), "no record was written twice"
    if entries:
        assert records.models(documents, GROUP) == (MODEL,)


VERSIONS = (0, 1, 2)
KEYS = ("run 1", "run 2")
writes = st.one_of(
    st.tuples(st.just(Action.VALIDATED), st.sampled_from(VERSIONS[1:]), st.just("")),
    st.tuples(st.just(Action.REJECTED), st.sampled_from(VERSIONS[1:]), st.just("")),
    st.tuples(
        st.sampled_from([Action.PROMOTED, Action.ROLLED_BACK]), st.sampled_from(VERSIONS[1:]), st.sampled_from(KEYS)
    ),
    st.tuples(st.sampled_from([Action.PUT_BACK, Action.UNDEPLOYED]), st.just(0), st.just("")),
)
compactions = itertools.count(1)
actions = st.one_of(writes, st.just("compact"), st.just("read"))


@dataclass
class Worker:
    """Carries out a list of actions, and keeps the records that it got back."""

    name: str
    actions: list[Any]
    written: list[DeploymentRecord] = field(default_factory=list)

    def __call__(self, documents: Any) -> None:
        log = RecordLog(documents, GROUP, MODEL, clock=FakeClock())
        for number, action in enumerate(self.actions):
            if action == "compact":
                # Minutes after every other one: each claim has expired, so compactions run at the same time.
                clock = FakeClock()
                clock.advance(10 * CLAIM_SECONDS * next(compactions))
                compact(documents, GROUP, MODEL, actor=self.name, clock=clock, keep=0)
            elif action == "read":
                sequences = [entry.sequence for entry in records.history(documents, GROUP, MODEL)]
                assert sequences == list(range(1, len(sequences) + 1))
            else:
                kind, version, key = action
                draft = record(kind, version, name=f"{self.name} {number}", key=key)
                self.written.append(log.append(draft, once=kind is Action.REJECTED))


turns = st.builds(Turn, st.integers(0, 2), st.sampled_from([1, 2, 3, 5, 8, 40]), st.sampled_from([False] * 9 + [True]))


@given(
    before=st.lists(writes, max_size=6),
    programs=st.lists(st.lists(actions, min_size=1, max_size=8), min_size=2, max_size=3),
    turns=st.lists(turns, max_size=30),
)
@settings(max_examples=max(300, settings.default.max_examples))
def test_any_interleaving_of_writers_deaths_and_compactions_leaves_a_log_without_gap_or_duplicate(
    before, programs, turns
):
    with pytest.MonkeyPatch.context() as patch:
        for module in (record_log, record_packs):
            patch.setattr(module, "PACK_RECORDS", 2)
        documents = FakeStateDocuments()
        first = Worker("first", before)
        first(documents)
        workers = [Worker(f"worker {number}", program) for number, program in enumerate(programs)]
        for _ in interleave(list(workers), documents, turns):
            check_answers(documents)
        # Whoever died, the next ones go on.
        last = Worker("last", [(Action.VALIDATED, 1, ""), "compact", (Action.REJECTED, 1, ""), "read"])
        last(documents)
        check_answers(documents)
        entries = plain_scan(documents)
        for worker in [first, *workers, last]:
            assert [entry for entry in worker.written if entry not in entries] == []


def old_history(documents: FakeStateDocuments, entries: list[DeploymentRecord]) -> list[DeploymentRecord]:
    """Write records as they were before there were heads and `live_since`, and return them."""
    numbered = [replace(entry, sequence=number) for number, entry in enumerate(entries, 1)]
    for entry in numbered:
        body = json.loads(to_json(entry))
        del body["live_since"], body["label"], body["away"]
        key = f"groups/{GROUP}/records/{MODEL}/{entry.sequence:010d}.json"
        documents.write(key, json.dumps(body).encode(), expected=None)
    return numbered


def served_by_scan(entries: list[DeploymentRecord], at: datetime) -> tuple[int | None, str]:
    """Return the live version at a time and since when, as all records in their order say."""
    served: tuple[int | None, str] = (None, "")
    for entry in entries:
        if entry.action in MOVES_STABLE and datetime.fromisoformat(entry.at) <= at:
            version = (entry.version or None) if entry.action is not Action.UNDEPLOYED else None
            if version != served[0]:
                served = (version, entry.at)
    return served


@given(old=st.lists(writes, max_size=12), new=st.lists(writes, max_size=12), compacts=st.booleans())
def test_what_served_agrees_with_a_plain_scan_also_of_records_from_before_there_were_heads(old, new, compacts):
    with pytest.MonkeyPatch.context() as patch:
        for module in (record_log, record_packs):
            patch.setattr(module, "PACK_RECORDS", 2)
        documents, clock = FakeStateDocuments(), FakeClock()
        drafts = []
        for action, version, key in [*old, *new]:
            clock.advance(60)
            drafts.append(record(action, version, name=f"{clock.now()}", key=key, at=clock.now()))
        old_history(documents, drafts[: len(old)])
        for draft in drafts[len(old) :]:
            records.append(documents, draft)
        if compacts:
            compact(documents, GROUP, MODEL, actor="ann", clock=clock, keep=2)
        entries = plain_scan(documents)
        assert [entry.reason for entry in entries] == [draft.reason for draft in drafts]
        for minutes in range(len(drafts) + 1):
            at = START + timedelta(minutes=minutes, seconds=30)
            served = records.version_at(documents, GROUP, MODEL, at)
            assert (served.version, served.since) == served_by_scan(entries, at)


def test_records_from_before_there_were_heads_are_indexed_by_the_next_one() -> None:
    documents = FakeStateDocuments()
    old = old_history(
        documents,
        [record(Action.PUBLISHED, 1, name="a"), record(Action.PROMOTED, 1, key="run 1", name="b")],
    )
    documents.write(f"groups/{GROUP}/records/other/0000000001.json", to_json(old[0]), expected=None)
    assert records.models(documents, GROUP) == (MODEL, "other")
    assert records.history(documents, GROUP, MODEL) == tuple(old)
    assert records.append_once(documents, record(Action.PUBLISHED, 1, name="again")) == old[0]
    assert records.append(documents, record(Action.REJECTED, 2, name="c")).sequence == 3
    assert records.models(documents, GROUP) == (MODEL, "other")
    assert records.latest_move(documents, GROUP, MODEL) == old[1]
    assert records.append(documents, record(Action.PUBLISHED, 1, name="d")).sequence == 4
    log = RecordLog(documents, GROUP, MODEL)
    assert log.end().newer == ()
    assert log.last_with_key("run 1", log.end()) == 2


def test_a_head_that_was_lost_is_made_from_a_listing_of_records_and_packs() -> None:
    documents = FakeStateDocuments()
    write_history(documents, GROUP, MODEL, 300, 200)
    before = plain_scan(documents)
    documents.delete(f"groups/{GROUP}/record_heads/{MODEL}.json")
    assert records.history(documents, GROUP, MODEL) == tuple(before)
    assert records.append(documents, record(Action.VALIDATED, 7)).sequence == 301
    assert records.history(documents, GROUP, MODEL)[:-1] == tuple(before)
    assert records.latest_move(documents, GROUP, MODEL).sequence == 298


def test_a_number_that_was_packed_while_its_writer_stood_still_is_not_used_again() -> None:
    documents = FakeStateDocuments()
    write_history(documents, GROUP, MODEL, 95, 0)

    class StandsStill(CountingDocuments):
        """Before the first write of a record, others write many more and pack them."""

        def write(self, key: str, body: bytes, *, expected: str | None) -> str:
            if "/records/" in key and not self.calls["write"]:
                self.calls["write"] += 1
                for number in range(20):
                    records.append(documents, record(Action.VALIDATED, 1, name=f"other {number}"))
                compact(documents, GROUP, MODEL, actor="ann", clock=FakeClock(), keep=0)
            return documents.write(key, body, expected=expected)

    log = RecordLog(StandsStill(documents), GROUP, MODEL, clock=FakeClock())
    assert log.append(record(Action.VALIDATED, 2, name="late")).sequence == 116
    entries = records.history(documents, GROUP, MODEL)
    assert [entry.sequence for entry in entries] == list(range(1, 117))
    assert entries[95].reason == "other 0"
    assert entries == tuple(plain_scan(documents))


def test_an_append_that_others_overtake_for_a_minute_is_a_contention() -> None:
    class Overtaken(FakeStateDocuments):
        def write(self, key: str, body: bytes, *, expected: str | None) -> str:
            if "/records/" in key and b'"ann"' in body:
                super().write(key, body.replace(b'"ann"', b'"somebody else"'), expected=None)
            return super().write(key, body, expected=expected)

    clock = FakeClock()
    with pytest.raises(Contention, match="took every number"):
        RecordLog(Overtaken(), GROUP, MODEL, clock=clock).append(record(Action.VALIDATED, 1))
    assert 60 <= clock.monotonic() < 62


def test_writers_at_the_same_time_on_a_disk_leave_a_log_without_gap_or_duplicate(tmp_path) -> None:
    documents = open_store(str(tmp_path)).documents
    names = [f"{writer} {number}" for writer in range(4) for number in range(5)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: records.append(documents, record(Action.VALIDATED, 1, name=name)), names))
        rejections = list(pool.map(lambda name: records.append_once(documents, record(Action.REJECTED, 1)), names))
    entries = records.history(documents, GROUP, MODEL)
    assert [entry.sequence for entry in entries] == list(range(1, 22))
    assert sorted(entry.reason for entry in entries[:20]) == sorted(names)
    assert set(map(str, rejections)) == {str(entries[20])}
