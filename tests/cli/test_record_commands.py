"""The commands that show the history: their tables, their JSON, how they end."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from cli.desk import MODEL, Desk, deployed
from deployment.long_history import write_history
from tfs_deploy.deployment import records
from tfs_deploy.deployment.record_packs import CompactionClaim
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.jsonable import to_json
from tfs_deploy.store.open import open_store


def test_history_shows_time_action_version_actor_and_reason(desk: Desk) -> None:
    deployed(desk, "good 1", "good 2")
    desk.run("rollback", MODEL, "--reason", "too slow", "--actor", "ann")

    told = desk.run("history", MODEL, "--json").json
    assert [entry["action"] for entry in told] == ["published", "validated", "promoted"] * 2 + ["rolled_back"]
    table = desk.run("history", MODEL).out
    assert "2 -> 1" in table
    assert "too slow" in table
    assert "ann" in table
    assert len(desk.run("history", MODEL, "--last", 1, "--json").json) == 1
    assert [entry["version"] for entry in desk.run("history", MODEL, "--action", "promoted", "--json").json] == [1, 2]


def test_history_shows_the_newest_entries_and_says_how_to_get_more(desk: Desk) -> None:
    write_history(open_store(str(desk.store)).documents, "default", MODEL, 45, 0)

    ran = desk.run("history", MODEL)

    assert len(ran.out.splitlines()) == 1 + 20
    assert ran.err == "These are the newest 20 entries; --limit N shows more, --all shows all.\n"
    assert [entry["sequence"] for entry in desk.run("history", MODEL, "--json").json] == list(range(26, 46))
    assert desk.run("history", MODEL, "--json").err == ""
    assert len(desk.run("history", MODEL, "--limit", 30, "--json").json) == 30
    assert len(desk.run("history", MODEL, "--all", "--json").json) == 45
    assert desk.run("history", MODEL, "--all").err == ""
    since = desk.run("history", MODEL, "--since", "2026-01-01T00:22:00Z", "--json").json
    assert [entry["sequence"] for entry in since] == list(range(22, 46))
    rejected = desk.run("history", MODEL, "--action", "rejected", "--limit", 2, "--json").json
    assert [entry["sequence"] for entry in rejected] == [39, 44]


def test_history_shows_labels_and_replicas_that_were_not_reached(desk: Desk) -> None:
    documents = open_store(str(desk.store)).documents
    for action, more in (
        (Action.PROMOTED, {"version": 1}),
        (Action.LABELLED, {"version": 2, "label": "canary"}),
        (Action.ROLLED_BACK, {"version": 1, "previous": 2, "reason": "slow", "away": ("replica-2:8500",)}),
        (Action.UNDEPLOYED, {"version": 0, "previous": 1}),
    ):
        at = "2026-01-01T00:00:00+00:00"
        records.append(documents, DeploymentRecord(0, at, "default", MODEL, action, actor="ann", **more))

    rows = [" ".join(line.split()) for line in desk.run("history", MODEL).out.splitlines()[1:]]

    assert [row.removeprefix("2026-01-01 00:00:00 ") for row in rows] == [
        "promoted 1 ann",
        "labelled canary 2 ann",
        "rolled back 2 -> 1 ann slow; not reached: replica-2:8500",
        "undeployed 1 -> none ann",
    ]
    assert desk.run("what-served", MODEL, "--json").json["version"] is None


def test_history_is_packed_and_answers_as_before(desk: Desk) -> None:
    write_history(open_store(str(desk.store)).documents, "default", MODEL, 1200, 0)
    before = desk.run("history", MODEL, "--all", "--json").json

    ran = desk.run("history", MODEL, "--compact")

    assert ran.code == 0
    assert ran.out == (
        f"200 records of {MODEL} packed into 2 documents; 1000 records left in a document of its own each.\n"
    )
    assert desk.run("history", MODEL, "--all", "--json").json == before
    assert desk.run("what-served", MODEL, "--at", "2026-01-01T00:08:30Z", "--json").json["version"] == 2
    again = desk.run("history", MODEL, "--compact", "--json").json
    assert again == {"model": MODEL, "packed": 0, "packs": 0, "remaining": 1000}


def test_a_compaction_during_another_one_is_refused(desk: Desk) -> None:
    documents = open_store(str(desk.store)).documents
    write_history(documents, "default", MODEL, 10, 0)
    claim = CompactionClaim("ann@laptop", datetime.now(timezone.utc).isoformat(), "nonce")
    documents.write(f"groups/default/record_compactions/{MODEL}.json", to_json(claim), expected=None)

    ran = desk.run("history", MODEL, "--compact")

    assert ran.code == 3
    assert "ann@laptop compacts the records" in ran.err


@pytest.mark.parametrize(
    "options",
    [("--all", "--limit", 3), ("--compact", "--all"), ("--compact", "--since", "2026-01-01T00:00:00Z"), ("--limit", 0),
     ("--since", "yesterday"), ("--action", "exploded")],
)  # fmt: skip
def test_history_refuses_options_that_it_cannot_follow(desk: Desk, options: tuple[object, ...]) -> None:
    write_history(open_store(str(desk.store)).documents, "default", MODEL, 5, 0)
    assert desk.run("history", MODEL, *options).code == 2


def test_a_table_keeps_every_column_on_a_narrow_terminal(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(desk, "good 1", "good 2")
    desk.run("rollback", MODEL, "--reason", "answers took too long since noon", "--actor", "ann@host-of-a-long-name")

    for columns in (60, 80, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        table = desk.run("history", MODEL).out
        assert max(map(len, table.splitlines())) <= columns
        for held in ("time (UTC)", "rolled back", "2 -> 1", "ann@host-of-a-long-name"):
            assert held in table
        assert "answers took too long since noon" in " ".join(table.split())
        verdicts = " ".join(desk.run("validate", MODEL, 1).out.split())
        assert "prediction" in verdicts
        assert "pass" in verdicts
        assert "1 signature as in the manifest" in verdicts


def test_in_a_pipe_a_row_of_a_table_is_one_line(desk: Desk) -> None:
    deployed(desk, "good 1")
    reason = " ".join(["a reason of many words"] * 20)
    desk.run("publish", desk.staged("good 2"), "--model", MODEL)
    desk.run("reject", MODEL, 2, "--reason", reason)

    (row,) = [line for line in desk.run("history", MODEL).out.splitlines() if "rejected" in line]
    assert reason in row
    assert len(desk.run("history", MODEL).out.splitlines()) == 1 + 5
    (signature,) = [
        line for line in desk.run("inspect", desk.staged("good 1"), where=False).out.splitlines() if "x: " in line
    ]
    assert "y: float" in signature


def test_what_served_answers_by_the_record(desk: Desk) -> None:
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    deployed(desk, "good 1")
    now = datetime.now(timezone.utc)

    assert desk.run("what-served", MODEL, "--at", before.isoformat(), "--json").json["version"] is None
    assert desk.run("what-served", MODEL, "--at", now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "--json").json["version"] == 1
    assert "Version 1 of half_plus_two answered `stable`" in desk.run("what-served", MODEL, "--at", now.isoformat()).out
    assert desk.run("what-served", MODEL, "--json").json["version"] == 1


@pytest.mark.parametrize("at", ["yesterday", "2026-01-01T12:00:00", "2999-01-01T00:00:00Z"])
def test_what_served_refuses_a_time_that_it_cannot_answer_for(desk: Desk, at: str) -> None:
    deployed(desk, "good 1")
    ran = desk.run("what-served", MODEL, "--at", at)
    assert ran.code == 2
    assert at in ran.err


@pytest.mark.parametrize("arguments", [("history", MODEL), ("what-served", MODEL), ("status",), ("status", MODEL)])
def test_a_command_that_reads_refuses_a_store_that_does_not_exist(desk: Desk, arguments: tuple[str, ...]) -> None:
    missing = desk.folder / "stor"

    ran = desk.run(*arguments, "--store", missing, "--target", ",".join(desk.servers), where=False)

    assert ran.code == 2
    assert str(missing) in ran.err
    assert "does not exist" in ran.err
    assert not missing.exists()
