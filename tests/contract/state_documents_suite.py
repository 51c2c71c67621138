"""What all StateDocuments do, wherever they lie.

A test module subclasses `StateDocumentsSuite` and defines the fixtures `connect`, a callable that returns the
documents of one fresh place, as another process would see them: a new object at each call; and `stored`, which reads
and writes the bytes of a document behind its back.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from fakes import FakeClock
from tfs_deploy.errors import Contention, CorruptModel, InvalidInput
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.store.documents import update
from tfs_deploy.store.protocol import MAX_DOCUMENT_BYTES, StateDocuments

Connect = Callable[[], StateDocuments]


@dataclass(frozen=True)
class StoredBytes:
    """Reads and writes what is stored under a key."""

    read: Callable[[str], bytes]
    write: Callable[[str, bytes], object]

    @classmethod
    def in_bucket(cls, client: Any, bucket: str, prefix: str) -> StoredBytes:
        """Return those of the objects below `prefix`."""
        return cls(
            lambda key: client.get_object(Bucket=bucket, Key=prefix + key)["Body"].read(),
            lambda key, data: client.put_object(Bucket=bucket, Key=prefix + key, Body=data),
        )


BAD_KEYS = ["", "/", "a/", "/a", "a//b", "..", "../a", "a/../b", ".hidden", "a/.hidden", "a\\b", "a\nb", "a\0", "a\x7f"]


@dataclass(frozen=True)
class Counter:
    count: int = 0


def increment(documents: StateDocuments, key: str) -> Counter:
    return update(documents, key, Counter, lambda counter: Counter(counter.count + 1), default=Counter())


class StateDocumentsSuite:
    @pytest.fixture
    def documents(self, connect: Connect) -> StateDocuments:
        return connect()

    def test_there_is_nothing_at_first(self, documents: StateDocuments) -> None:
        assert documents.read("groups/default/desired.json") is None
        assert documents.list("") == ()

    @pytest.mark.parametrize(
        "body", [b"", b"{}\n", bytes(range(256)), b"\n\n", b"tfs-deploy-document 1 \n", b"x" * 100_000]
    )
    def test_what_is_written_is_read(self, connect: Connect, body: bytes) -> None:
        tag = connect().write("a/b.json", body, expected=None)
        found = connect().read("a/b.json")
        assert found is not None
        assert (found.body, found.tag) == (body, tag)

    def test_a_body_in_the_stored_form_comes_back(self, documents: StateDocuments) -> None:
        documents.write("a", b"one", expected=None)
        nested = f"tfs-deploy-document 1 {'0' * 32}\nbody".encode()
        documents.write("b", nested, expected=None)
        found = documents.read("b")
        assert found is not None
        assert found.body == nested

    def test_what_is_stored_for_a_json_object_is_one(self, documents: StateDocuments, stored: StoredBytes) -> None:
        documents.write("counter.json", to_json(Counter(3)), expected=None)
        assert json.loads(stored.read("counter.json"))["count"] == 3
        increment(documents, "counter.json")
        assert json.loads(stored.read("counter.json"))["count"] == 4

    def test_a_document_of_the_old_form_is_read_and_rewritten(self, connect: Connect, stored: StoredBytes) -> None:
        documents = connect()
        documents.write("counter.json", b"{}", expected=None)
        body = to_json(Counter(3))
        stored.write("counter.json", f"tfs-deploy-document 1 {'a' * 32}\n".encode() + body)
        found = documents.read("counter.json")
        assert found is not None
        assert found.body == body
        tag = connect().write("counter.json", to_json(Counter(4)), expected=found.tag)
        assert json.loads(stored.read("counter.json"))["count"] == 4
        with pytest.raises(Contention):
            documents.write("counter.json", b"{}", expected=found.tag)
        documents.write("counter.json", to_json(Counter(5)), expected=tag)
        assert increment(documents, "counter.json") == Counter(6)

    def test_a_document_put_there_by_hand_is_read_and_rewritten(
        self, documents: StateDocuments, stored: StoredBytes
    ) -> None:
        documents.write("counter.json", b"{}", expected=None)
        stored.write("counter.json", b'{"count": 3}')
        assert increment(documents, "counter.json") == Counter(4)

    def test_a_document_edited_by_hand_is_another_state(self, documents: StateDocuments, stored: StoredBytes) -> None:
        tag = documents.write("counter.json", to_json(Counter(3)), expected=None)
        stored.write("counter.json", stored.read("counter.json").replace(b'"count": 3', b'"count": 30'))
        with pytest.raises(Contention):
            documents.write("counter.json", to_json(Counter(4)), expected=tag)
        assert increment(documents, "counter.json") == Counter(31)

    def test_a_change_needs_the_tag_that_was_read(self, documents: StateDocuments) -> None:
        first = documents.write("k", b"1", expected=None)
        second = documents.write("k", b"2", expected=first)
        with pytest.raises(Contention, match="'k'"):
            documents.write("k", b"3", expected=first)
        found = documents.read("k")
        assert found is not None
        assert (found.body, found.tag) == (b"2", second)

    def test_a_new_document_must_not_exist(self, documents: StateDocuments) -> None:
        documents.write("k", b"1", expected=None)
        with pytest.raises(Contention, match="exists already"):
            documents.write("k", b"1", expected=None)

    def test_a_change_of_a_removed_document_is_refused(self, documents: StateDocuments) -> None:
        tag = documents.write("k", b"1", expected=None)
        documents.delete("k")
        with pytest.raises(Contention):
            documents.write("k", b"2", expected=tag)
        assert documents.read("k") is None

    def test_the_same_bytes_written_again_are_another_state(self, documents: StateDocuments) -> None:
        tags = [documents.write("lease", b"held by nobody", expected=None)]
        tags.append(documents.write("lease", b"held by A", expected=tags[-1]))
        tags.append(documents.write("lease", b"held by nobody", expected=tags[-1]))
        documents.delete("lease")
        tags.append(documents.write("lease", b"held by nobody", expected=None))
        assert len(set(tags)) == 4
        for old in tags[:-1]:
            with pytest.raises(Contention):
                documents.write("lease", b"held by B", expected=old)

    def test_two_writers_of_the_same_bytes_do_not_both_succeed(self, documents: StateDocuments) -> None:
        tag = documents.write("k", b"old", expected=None)
        documents.write("k", b"new", expected=tag)
        with pytest.raises(Contention):
            documents.write("k", b"new", expected=tag)

    def test_reading_changes_no_tag(self, documents: StateDocuments) -> None:
        tag = documents.write("k", b"1", expected=None)
        assert {found.tag for _ in range(3) if (found := documents.read("k"))} == {tag}

    def test_deleting_what_is_not_there_is_no_error(self, documents: StateDocuments) -> None:
        documents.delete("never/was")
        documents.write("k", b"1", expected=None)
        documents.delete("k")
        documents.delete("k")
        assert documents.list("") == ()

    def test_keys_are_listed_by_prefix(self, documents: StateDocuments) -> None:
        keys = ["b", "a/2", "a/10", "ab/c", "a/sub/x", "groups/ü ber/d.json"]
        for key in keys:
            documents.write(key, b"", expected=None)
        assert documents.list("") == tuple(sorted(keys))
        assert documents.list("a/") == ("a/10", "a/2", "a/sub/x")
        assert documents.list("a") == ("a/10", "a/2", "a/sub/x", "ab/c")
        assert documents.list("a/1") == ("a/10",)
        assert documents.list("groups/ü") == ("groups/ü ber/d.json",)
        assert documents.list("nothing/here/") == ()

    def test_folders_are_the_next_segments_of_keys_that_have_more(self, documents: StateDocuments) -> None:
        for key in ["b", "a/2", "a/sub/x", "a/sub/y/z", "a/ü ber/d.json", "ab/c"]:
            documents.write(key, b"", expected=None)
        assert documents.folders("") == ("a", "ab")
        assert documents.folders("a/") == ("sub", "ü ber")
        assert documents.folders("a/sub/") == ("y",)
        assert documents.folders("b/") == ()
        assert documents.folders("nothing/here/") == ()
        with pytest.raises(InvalidInput, match="no folder"):
            documents.folders("a")

    def test_a_key_is_free_again_when_all_below_it_is_deleted(self, documents: StateDocuments) -> None:
        documents.write("a/b/c", b"1", expected=None)
        documents.delete("a/b/c")
        documents.write("a", b"2", expected=None)
        assert documents.list("") == ("a",)

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_a_bad_key_is_refused(self, documents: StateDocuments, key: str) -> None:
        with pytest.raises(InvalidInput, match="document key"):
            documents.write(key, b"", expected=None)
        with pytest.raises(InvalidInput, match="document key"):
            documents.read(key)
        with pytest.raises(InvalidInput, match="document key"):
            documents.delete(key)
        assert documents.list("") == ()

    def test_a_key_may_be_long_but_not_too_long(self, documents: StateDocuments) -> None:
        longest = "/".join(["k" * 199] * 4)
        documents.write(longest, b"1", expected=None)
        assert documents.list("k") == (longest,)
        for too_long in (longest + "kk", "k" * 201, "ü" * 101):
            with pytest.raises(InvalidInput, match="too long"):
                documents.write(too_long, b"", expected=None)

    @pytest.mark.parametrize("prefix", ["../", "/", "a/../b", ".tfs", "a/.b/"])
    def test_a_bad_prefix_lists_nothing_outside(self, documents: StateDocuments, prefix: str) -> None:
        documents.write("a/b", b"", expected=None)
        with contextlib.suppress(InvalidInput):
            assert documents.list(prefix) == ()

    def test_a_document_that_is_too_large_is_refused(self, documents: StateDocuments) -> None:
        with pytest.raises(InvalidInput, match="'big'"):
            documents.write("big", bytes(MAX_DOCUMENT_BYTES + 1), expected=None)
        assert documents.read("big") is None
        documents.write("big", bytes(MAX_DOCUMENT_BYTES), expected=None)
        found = documents.read("big")
        assert found is not None
        assert len(found.body) == MAX_DOCUMENT_BYTES

    def test_no_change_is_lost_among_many_writers(self, connect: Connect) -> None:
        writers, changes = 6, 8

        def work(_: int) -> None:
            documents = connect()
            for _ in range(changes):
                increment(documents, "counter")

        with ThreadPoolExecutor(writers) as pool:
            list(pool.map(work, range(writers)))
        found = connect().read("counter")
        assert found is not None
        assert from_json(Counter, found.body) == Counter(writers * changes)

    def test_an_update_returns_what_it_has_written(self, connect: Connect) -> None:
        assert increment(connect(), "counter") == Counter(1)
        assert increment(connect(), "counter") == Counter(2)
        found = connect().read("counter")
        assert found is not None
        assert from_json(Counter, found.body) == Counter(2)

    def test_an_update_without_a_change_writes_nothing(self, documents: StateDocuments) -> None:
        assert update(documents, "counter", Counter, lambda counter: counter, default=Counter()) == Counter(0)
        assert documents.list("") == ()
        increment(documents, "counter")
        before = documents.read("counter")
        assert update(documents, "counter", Counter, lambda _: Counter(1), default=Counter()) == Counter(1)
        assert documents.read("counter") == before

    def test_an_update_without_a_default_is_given_none(self, documents: StateDocuments) -> None:
        given: list[Counter | None] = []

        def change(counter: Counter | None) -> Counter:
            given.append(counter)
            return counter or Counter(7)

        for _ in range(2):
            assert update(documents, "counter", Counter, change) == Counter(7)
        assert given == [None, Counter(7)]

    def test_an_update_starts_again_when_another_writer_is_faster(self, documents: StateDocuments) -> None:
        given: list[int] = []

        def change(counter: Counter) -> Counter:
            given.append(counter.count)
            if len(given) < 4:
                increment(documents, "counter")
            return Counter(counter.count + 10)

        clock = FakeClock()
        done = update(documents, "counter", Counter, change, default=Counter(), clock=clock)
        assert (given, done) == ([0, 1, 2, 3], Counter(13))
        assert len(clock.slept) == 3

    def test_an_update_ends_when_others_are_always_faster(self, documents: StateDocuments) -> None:
        def change(counter: Counter) -> Counter:
            increment(documents, "counter")
            return Counter(-1)

        clock = FakeClock()
        with pytest.raises(Contention, match="'counter'"):
            update(documents, "counter", Counter, change, default=Counter(), clock=clock, seconds=3.0)
        assert 3.0 <= sum(clock.slept) < 4.0
        assert increment(documents, "counter").count == len(clock.slept) + 2

    def test_an_update_writes_nothing_when_the_change_raises(self, documents: StateDocuments) -> None:
        increment(documents, "counter")

        def change(counter: Counter) -> Counter:
            raise Contention("the change itself", "is not tried again")

        with pytest.raises(Contention, match="the change itself"):
            update(documents, "counter", Counter, change, default=Counter())
        assert increment(documents, "counter") == Counter(2)

    def test_an_update_of_a_corrupt_document_is_refused_unless_it_may_be_replaced(
        self, documents: StateDocuments
    ) -> None:
        documents.write("counter", b"no JSON", expected=None)
        with pytest.raises(CorruptModel):
            increment(documents, "counter")
        update(documents, "counter", Counter, lambda _: Counter(5), default=Counter(), replace_corrupt=True)
        assert increment(documents, "counter") == Counter(6)

    def test_of_many_that_create_a_document_one_succeeds(self, connect: Connect) -> None:
        barrier = threading.Barrier(8)

        def work(number: int) -> bool:
            documents = connect()
            barrier.wait()
            try:
                documents.write("claim", str(number).encode(), expected=None)
            except Contention:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(work, range(8)))
        found = connect().read("claim")
        assert found is not None
        assert outcomes == [number == int(found.body) for number in range(8)]

    def test_a_reader_never_sees_half_a_document(self, connect: Connect) -> None:
        bodies = [bytes([number]) * 200_000 for number in range(4)]
        finished = threading.Event()

        def write() -> None:
            documents = connect()
            tag = None
            for round_ in range(20):
                tag = documents.write("k", bodies[round_ % 4], expected=tag)
            finished.set()

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            documents = connect()
            while not finished.is_set() and not writing.done():
                found = documents.read("k")
                assert found is None or found.body in bodies
            writing.result()
