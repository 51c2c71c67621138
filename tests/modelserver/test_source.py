"""What counts as a version, and what a poll says: contract 3, 20.6 and 20.11. No TensorFlow."""

from __future__ import annotations

import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfs_deploy.modelserver.lifecycle.source import (
    All,
    Latest,
    Periodic,
    Specific,
    StoragePathSource,
    WatchedModel,
    parse_version,
)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("7", 7), ("007", 7), ("20170111173521", 20170111173521), ("-3", -3), ("+7", 7), (" 8", 8), ("9 ", 9), ("0", 0),
        (str(2**63 - 1), 2**63 - 1), (str(-(2**63)), -(2**63)),
        (str(2**63), None), ("1.0", None), ("v1", None), ("1_tmp", None), (".1", None), ("5.tmp", None), ("1e3", None),
        ("", None), ("1_000", None), ("٣", None), ("+-1", None), ("- 1", None), ("0x10", None),
    ],
)  # fmt: skip
def test_names(name, version):
    assert parse_version(name) == version


class Sink:
    def __init__(self):
        self.calls = []

    def __call__(self, name, versions):
        self.calls.append((name, [(found.version, found.path) for found in versions]))

    def numbers(self):
        self.calls, calls = [], self.calls
        return {name: [version for version, _ in versions] for name, versions in calls}


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def source(sink):
    return StoragePathSource(sink, poll_wait_seconds=1)


def make(base, *names):
    for name in names:
        (base / name).mkdir(parents=True)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Latest(), [10]), (Latest(0), [10]), (Latest(2), [9, 10]), (Latest(99), [-1, 2, 9, 10]),
        (All(), [-1, 10, 2, 9]),
        (Specific(frozenset({2, 9})), [2, 9]), (Specific(frozenset({2, 77})), [2]), (Specific(frozenset({77})), []),
        (Specific(frozenset()), []),
    ],
)  # fmt: skip
def test_policies(tmp_path, source, sink, policy, expected):
    make(tmp_path, "2", "9", "10", "-1", "x", "9.tmp")
    source.configure([WatchedModel("m", str(tmp_path), policy)])
    source.poll()
    assert sink.numbers() == {"m": expected}


def test_a_file_and_a_dangling_link_count(tmp_path, source, sink):
    (tmp_path / "9").write_text("")
    (tmp_path / "10").symlink_to(tmp_path / "nowhere")
    source.configure([WatchedModel("m", str(tmp_path), Latest(2))])
    source.poll()
    assert sink.numbers() == {"m": [9, 10]}


def test_zero_padding(tmp_path, source, sink):
    make(tmp_path, "1", "001", "0002")
    source.configure(
        [
            WatchedModel("latest", str(tmp_path), Latest(2)),
            WatchedModel("all", str(tmp_path), All()),
            WatchedModel("specific", str(tmp_path), Specific(frozenset({1, 2}))),
        ]
    )
    source.poll()
    base = str(tmp_path)
    assert sink.calls == [
        ("latest", [(1, f"{base}/1"), (2, f"{base}/0002")]),
        ("all", [(2, f"{base}/0002"), (1, f"{base}/001"), (1, f"{base}/1")]),
        ("specific", [(1, f"{base}/1"), (2, f"{base}/0002")]),
    ]


def test_the_first_missing_base_path_stops_the_poll_for_all(tmp_path, source, sink, caplog):
    make(tmp_path, "good/1")
    models = [WatchedModel("good", str(tmp_path / "good")), WatchedModel("bad", str(tmp_path / "bad"))]
    source.configure(models)
    with caplog.at_level(logging.WARNING):
        source.poll()
        source.poll()
    assert sink.calls == []
    assert len(caplog.records) == 1
    assert f"Could not find base path {tmp_path}/bad for servable bad" in caplog.text
    (tmp_path / "bad").mkdir()
    source.poll()
    assert sink.numbers() == {"good": [1], "bad": []}


def test_a_base_path_that_is_a_file_stops_the_poll(tmp_path, source, sink):
    (tmp_path / "file").write_text("")
    source.configure([WatchedModel("m", str(tmp_path / "file"))])
    source.poll()
    assert sink.calls == []


def test_a_model_left_out_is_un_aspired_at_once(tmp_path, source, sink):
    make(tmp_path, "1")
    source.configure([WatchedModel("m", str(tmp_path)), WatchedModel("n", str(tmp_path))])
    source.configure([WatchedModel("n", str(tmp_path))])
    assert sink.calls == [("m", [])]
    assert source.model_names == {"n"}


@pytest.mark.parametrize(("period", "polls", "periodic"), [(0, 1, []), (-1, 0, []), (1, 0, [1])])
def test_poll_each_period_or_once_or_never(tmp_path, sink, monkeypatch, period, polls, periodic):
    started = []
    monkeypatch.setattr(Periodic, "start", lambda self: started.append(self._seconds))
    make(tmp_path, "1")
    source = StoragePathSource(sink, poll_wait_seconds=period)
    source.configure([WatchedModel("m", str(tmp_path))])
    source.start()
    for thread in [thread for thread in threading.enumerate() if thread.name == "file-system-poll"]:
        thread.join(30)
    assert (len(sink.calls), started) == (polls, periodic)
    source.stop()


class Listing:
    def __init__(self, names):
        self.names = names

    def exists(self, path):
        return path == "/b" or path.removeprefix("/b/") in self.names

    def children(self, path):
        return [f"{name}/x" for name in self.names]  # object stores list descendants


@given(
    st.lists(
        st.one_of(st.integers(-(2**65), 2**65).map(str), st.sampled_from(["1", "01", "001", "2", "x", "1.tmp"])),
        unique=True,
    ),
    st.integers(0, 5),
)
def test_latest_gives_the_highest_numbers(names, count):
    sink = Sink()
    source = StoragePathSource(sink, 1, Listing(names))
    source.configure([WatchedModel("m", "/b", Latest(count))])
    source.poll()
    numbers = {n for name in names if name.lstrip("-").isdigit() and -(2**63) <= (n := int(name)) < 2**63}
    assert sink.numbers() == {"m": sorted(numbers)[-max(count, 1) :]}
