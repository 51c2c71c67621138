"""The command `status`: its tables, its JSON, everything that differs, how it ends, and --watch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cli.desk import MODEL, Desk, deployed
from fakes import FakeClient
from tfs_deploy.deployment import desired_state, loaded_since, records
from tfs_deploy.deployment.records import Action
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.names import PLACEHOLDER
from tfs_deploy.serving.config import ModelEntry, to_proto, to_text
from tfs_deploy.serving.group import ServingGroup
from tfs_deploy.store.open import open_store


@pytest.fixture
def session(desk: Desk) -> GroupSession:
    """Return a session with the serving group of the desk, for what a deploy step would write."""
    group = ServingGroup("default", tuple(desk.servers), str(desk.store))
    clients = {target: FakeClient(server) for target, server in desk.servers.items()}
    return GroupSession(open_store(str(desk.store)), group, clients, "a test")


def row_of(out: str, first: str) -> list[str]:
    """Return the words of the one line that begins with `first`."""
    (line,) = [line for line in out.splitlines() if line.startswith(first)]
    return line.split()


def test_it_shows_the_state_per_replica_and_version_and_the_version_per_label(desk: Desk) -> None:
    deployed(desk, "good 1", "good 2")

    ran = desk.run("status", "--json")

    assert ran.code == 0
    model = ran.json["models"][MODEL]
    assert model["labels"] == {"previous": 1, "stable": 2}
    for target in desk.servers:
        states = model["replicas"][target]["versions"]
        assert (states["1"], states["2"]) == ("AVAILABLE", "AVAILABLE")
        assert model["replicas"][target]["labels"] == {"previous": 1, "stable": 2}
    assert model["live"]["version"] == 2
    assert model["move"] is None
    assert (ran.json["drift"], ran.json["remedy"], ran.json["differences"]) == ("", "", [])


def test_a_table_has_a_row_per_replica_and_a_column_per_label(desk: Desk, session: GroupSession) -> None:
    deployed(desk, "good 1", "good 2")
    loaded_since.save_now(session, MODEL, 2)

    ran = desk.run("status", MODEL)

    assert row_of(ran.out, "replica ") == ["replica", "stable", "previous", "versions"]
    assert row_of(ran.out, "desired") == ["desired", "2", "1", "2,", "1"]
    assert row_of(ran.out, "replica-1:8500")[:6] == ["replica-1:8500", "2", "1", "2", "AVAILABLE", "since"]
    assert row_of(ran.out, "      2  stable")[2:] == ["pass", "2", "of", "2", "yes"]
    times = loaded_since.read(session.store.documents, "default", MODEL, 2)
    replica = desk.run("status", MODEL, "--json").json["models"][MODEL]["replicas"]["replica-1:8500"]
    assert replica["since"]["2"] == times["replica-1:8500"]


def test_it_fits_its_terminal(desk: Desk, session: GroupSession, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(desk, "good 1", "good 2")
    loaded_since.save_now(session, MODEL, 2)
    desk.servers["replica-2:8500"].labels[MODEL]["stable"] = 1
    since = loaded_since.read(session.store.documents, "default", MODEL, 2)["replica-1:8500"][:10]

    for columns in (60, 80, 100, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        ran = desk.run("status", MODEL)
        assert ran.code == 1
        assert max(map(len, ran.out.splitlines())) <= columns
        assert "\x1b" not in ran.out
        words = " ".join(ran.out.split())
        assert "version 2 is live since" in words
        assert f"2 AVAILABLE since {since}" in words
        assert "label 'stable' should answer version 2 and answers 1 on replica-2:8500" in words


def test_it_ends_with_3_for_a_replica_that_does_not_answer(desk: Desk) -> None:
    deployed(desk, "good 1")
    desk.servers["replica-1:8500"].unreachable = True

    ran = desk.run("status")

    assert ran.code == 3
    assert "Could not ask: replica-1:8500" in ran.out
    assert row_of(ran.out, "replica-1:8500") == ["replica-1:8500", "?", "did", "not", "answer"]
    assert "AVAILABLE" in ran.out
    assert "No drift" not in ran.out


def test_an_empty_group_is_asked_all_the_same(desk: Desk) -> None:
    assert desk.run("status").code == 0
    desk.servers["replica-1:8500"].unreachable = True
    assert desk.run("status").code == 3


def test_it_lists_every_difference_with_stable_first_and_ends_with_1(desk: Desk) -> None:
    deployed(desk, "good 1", "good 2")
    first, second = desk.servers.values()
    first.labels[MODEL]["canary"] = 2
    second.labels[MODEL] = {"stable": 1}

    ran = desk.run("status", "--json")

    assert ran.code == 1
    assert [(d["replica"], d["label"], d["kind"], d["observed"]) for d in ran.json["differences"]] == [
        ("replica-2:8500", "stable", "label_on_other_version", 1),
        ("replica-1:8500", "canary", "label_not_desired", 2),
        ("replica-2:8500", "previous", "label_missing", None),
    ]
    assert "replica-2:8500 has drifted" in ran.json["drift"]
    assert "2 more differences" in ran.json["drift"]
    assert "tfs-deploy reconcile" in ran.json["remedy"]
    shown = desk.run("status").out
    assert "Drift (3 differences)" in shown
    assert row_of(shown, "replica-1:8500")[1:4] == ["2", "2", "1"]
    assert desk.run("promote", MODEL, 2).code == 0
    assert desk.run("status").code == 0


def test_drift_is_listed_where_another_replica_is_away(desk: Desk) -> None:
    deployed(desk, "good 1", "good 2")
    first, second = desk.servers.values()
    first.unreachable = True
    second.labels[MODEL]["stable"] = 1

    ran = desk.run("status", "--json")

    assert ran.code == 1
    assert ran.json["unreachable"] == ["replica-1:8500"]
    assert [difference["kind"] for difference in ran.json["differences"]] == ["label_on_other_version", "unreachable"]


def test_check_prints_only_what_differs(desk: Desk) -> None:
    deployed(desk, "good 1", "good 2")
    ran = desk.run("status", "--check")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "No drift: every replica holds what it should.")
    assert MODEL not in ran.out

    desk.servers["replica-2:8500"].labels[MODEL]["stable"] = 1
    ran = desk.run("status", "--check")
    assert ran.code == 1
    assert "label 'stable'" in ran.out
    assert "AVAILABLE" not in ran.out


def test_a_version_that_was_loaded_and_is_gone_is_drift(desk: Desk, session: GroupSession) -> None:
    deployed(desk, "good 1", "good 2")
    desk.run("publish", desk.staged("good 3"), "--model", MODEL)
    desk.run("load", MODEL, 3)
    server = desk.servers["replica-1:8500"]
    server.config.model_config_list.config[0].model_version_policy.specific.versions.remove(3)
    server.restart()
    loaded_since.save_now(session, MODEL, 3)

    ran = desk.run("status", "--json")
    assert ran.code == 1
    assert [(d["kind"], d["desired"]) for d in ran.json["differences"]] == [("version_missing", 3)]


def test_an_open_move_is_shown_and_is_no_drift(desk: Desk, session: GroupSession) -> None:
    deployed(desk, "good 1", "good 2")
    record = records.new_record(session, MODEL, Action.ROLLED_BACK, 1)
    record = replace(record, actor="bob", at="2026-01-01T12:00:00+00:00")
    move = desired_state.LabelMove({"stable": 1, "previous": 2}, record)
    desired_state.change(session, MODEL, lambda state, model: replace(model, move=move))
    desk.servers["replica-2:8500"].labels[MODEL] = dict(move.labels)

    ran = desk.run("status")

    assert ran.code == 0
    assert "bob has been moving its labels (previous = 2, stable = 1) since 2026-01-01 12:00:00 UTC" in ran.out
    assert desk.run("status", "--json").json["models"][MODEL]["move"]["record"]["actor"] == "bob"


def test_many_replicas_that_hold_the_same_share_a_row(desk: Desk) -> None:
    deployed(desk, "good 1", "good 2")
    first, second = desk.servers.values()
    # Every further address leads to the same server, which keeps this test small.
    desk.servers.update({f"replica-{number}:8500": first for number in range(3, 31)})
    second.labels[MODEL]["stable"] = 1

    ran = desk.run("status", MODEL)

    assert ran.code == 1
    assert row_of(ran.out, "29 replicas")[:4] == ["29", "replicas", "2", "1"]
    assert row_of(ran.out, "replica-2:8500")[:3] == ["replica-2:8500", "1", "1"]
    assert "replica-17:8500" not in ran.out
    assert len(desk.run("status", "--json").json["models"][MODEL]["replicas"]) == 30


def test_watch_shows_the_status_until_ctrl_c(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(desk, "good 1")
    server = desk.servers["replica-1:8500"]
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        server.labels[MODEL]["canary"] = 1
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("tfs_deploy.cli.status_command.time.sleep", pause)

    ran = desk.run("status", "--watch", "--interval", 7)

    assert ran.code == 0, ran.err
    assert pauses == [7.0, 7.0]
    before, after = ran.out.split("every 7 s")[1:]
    assert "No drift" in before
    assert "Drift (1 difference)" in after
    assert after.index("Drift (1 difference)") < after.index("AVAILABLE")


@pytest.mark.parametrize("other", ["--json", "--check"])
def test_watch_is_refused_with_an_option_for_one_status(desk: Desk, other: str) -> None:
    ran = desk.run("status", "--watch", other)
    assert ran.code == 2
    assert "--watch" in ran.out + ran.err


def test_the_placeholder_of_a_first_version_that_loads_is_named_and_is_no_drift(desk: Desk, tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    entry = ModelEntry(MODEL, "/elsewhere", (PLACEHOLDER, 1), {})
    config.write_text(to_text([entry]))
    (tmp_path / "tfs-deploy.yaml").write_text("startup_config: models.config\n")
    for server in desk.servers.values():
        server.put("/elsewhere", PLACEHOLDER)
        FakeClient(server).reload(to_proto([entry]), timeout=1.0)

    ran = desk.run("status", MODEL)

    assert ran.code == 0
    assert "Its first version is loading" in ran.out
    assert row_of(ran.out, "      0  placeholder") == ["0", "placeholder", "-", "2", "of", "2", "-"]
    assert row_of(ran.out, "replica-1:8500")[1:] == ["-", "1", "absent;", "0", "AVAILABLE"]
