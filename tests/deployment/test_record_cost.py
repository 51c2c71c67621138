"""What a question or a new record costs does not depend on the length of the history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from deployment.long_history import START, CountingDocuments, record_number, write_history
from deployment_names import MODEL
from store_fake import FakeStateDocuments
from tfs_deploy.deployment import records
from tfs_deploy.deployment.records import Action, DeploymentRecord

GROUP = "default"
NEW = DeploymentRecord(0, (START + timedelta(days=3650)).isoformat(), GROUP, MODEL, Action.PUBLISHED, 1, "ann")


class Session:
    """As much of a session as `find_by_key` takes."""

    name = GROUP

    def __init__(self, documents: Any) -> None:
        self.documents = documents
        self.store = self.group = self


QUESTIONS: dict[str, Callable[[Any, int], object]] = {
    "latest_move": lambda documents, count: records.latest_move(documents, GROUP, MODEL),
    "history": lambda documents, count: records.history(documents, GROUP, MODEL, limit=20),
    "models": lambda documents, count: records.models(documents, GROUP),
    "mentions": lambda documents, count: records.mentions(documents, GROUP, MODEL, count // 5),
    "mentions an unknown version": lambda documents, count: records.mentions(documents, GROUP, MODEL, count),
    "find_by_key": lambda documents, count: records.find_by_key(Session(documents), MODEL, f"run {count // 5}"),
    "find_by_key of an unknown key": lambda documents, count: records.find_by_key(Session(documents), MODEL, "?"),
    "what is served now": lambda documents, count: records.version_at(
        documents, GROUP, MODEL, START + timedelta(days=3650)
    ),
    "append": lambda documents, count: records.append(documents, NEW),
    "append_once, new": lambda documents, count: records.append_once(documents, NEW),
    "append_once, known": lambda documents, count: records.append_once(documents, record_number(count, GROUP, MODEL)),
}


@pytest.fixture(scope="module")
def histories() -> dict[tuple[int, int], FakeStateDocuments]:
    """Return by length and number of packed records a history of 20 and some of 10,000 records."""
    made = {}
    for count, packed in ((20, 0), (10_000, 0), (10_000, 9_000), (10_000, 10_000)):
        made[count, packed] = FakeStateDocuments()
        write_history(made[count, packed], GROUP, MODEL, count, packed)
    return made


def cost(documents: FakeStateDocuments, question: Callable[[Any, int], object], count: int) -> Counter[str]:
    copy = FakeStateDocuments()
    copy.stored = dict(documents.stored)
    counting = CountingDocuments(copy)
    question(counting, count)
    return counting.calls


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_cost_is_the_same_with_20_and_with_10000_records(histories, name, tell) -> None:
    costs = {length: cost(documents, QUESTIONS[name], length[0]) for length, documents in histories.items()}
    few, many, compacted = costs[20, 0], costs[10_000, 0], costs[10_000, 9_000]
    assert many == few
    assert compacted == few
    assert sum(few.values()) <= (24 if name == "history" else 10)
    # A record that is in a pack costs one read as well; twenty of them are in one pack or in two.
    assert sum(costs[10_000, 10_000].values()) <= sum(few.values())
    tell(f"{name}: {dict(few)}")


@pytest.mark.parametrize("packed", [0, 9_000, 10_000])
def test_what_served_at_a_time_in_the_past_reads_a_logarithm_of_the_records(histories, packed) -> None:
    for minutes in (0, 1, 2, 3, 4, 5, 999, 5_000, 9_003, 9_999, 10_000):
        counting = CountingDocuments(histories[10_000, packed])
        at = START + timedelta(minutes=minutes, seconds=30)
        served = records.version_at(counting, GROUP, MODEL, at)
        promoted = (minutes + 2) // 5
        assert served.version == (promoted or None)
        assert served.since == ((START + timedelta(minutes=5 * promoted - 2)).isoformat() if promoted else "")
        assert sum(counting.calls.values()) <= 20


def test_the_newest_rejections_are_read_back_from_the_end(histories) -> None:
    counting = CountingDocuments(histories[10_000, 9_000])
    rejections = records.history(counting, GROUP, MODEL, limit=3, action=Action.REJECTED)
    assert [entry.sequence for entry in rejections] == [9_989, 9_994, 9_999]
    assert counting.calls["read"] <= 20
    since = START + timedelta(minutes=9_990)
    assert [entry.sequence for entry in records.history(counting, GROUP, MODEL, since=since)] == list(
        range(9_990, 10_001)
    )
    assert counting.calls["read"] <= 40
