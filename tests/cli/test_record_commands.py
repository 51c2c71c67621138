"""The commands that show the history: their tables, their JSON, how they end."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from cli.desk import MODEL, Desk, deployed


def test_history_tells_time_action_version_who_and_why(desk: Desk) -> None:
    deployed(desk, "good 1", "good 2")
    desk.run("rollback", MODEL, "--reason", "too slow", "--actor", "ann")

    told = desk.run("history", MODEL, "--json").json
    assert [entry["action"] for entry in told] == ["published", "validated", "promoted"] * 2 + ["rolled_back"]
    table = desk.run("history", MODEL).out
    assert "2 -> 1" in table
    assert "too slow" in table
    assert "ann" in table
    assert len(desk.run("history", MODEL, "--last", 1, "--json").json) == 1


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
