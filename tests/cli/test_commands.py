"""The commands on two fake replicas: what they do, what they print, how they end."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from cli.desk import GOLDEN, MODEL, Desk, deployed
from saved_model_files import BAD_GATES, TEXT_OUTPUT, write_bad_gates, write_saved_model
from tfs_deploy.savedmodel.requests import write_golden

# The command asks for TensorFlow before it reads the directory.
NEEDS_TENSORFLOW = pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed")


def test_a_deploy_takes_a_directory_to_stable(desk: Desk) -> None:
    ran = desk.run("deploy", desk.staged("good 1"), "--model", MODEL, "--json")

    assert ran.code == 0, ran.err
    assert ran.err == ""
    assert ran.json["version"] == ran.json["stable"] == 1
    assert ran.json["verdict"] == "pass"
    assert ran.json["fingerprint"].startswith("sha256:")
    assert ran.json["seconds"].keys() == {"publish", "load", "validate", "promote"}
    assert desk.stable() == [1, 1]


def test_a_deploy_that_fails_a_gate_ends_with_1_and_leaves_stable(desk: Desk) -> None:
    deployed(desk, "good 1")

    ran = desk.run("deploy", desk.staged("wrong 2"), "--model", MODEL)

    assert ran.code == 1
    assert "golden" in ran.err.splitlines()[-1]
    assert "The live version was not touched" in ran.err
    assert ran.out == ""
    assert desk.stable() == [1, 1]


def test_a_version_that_cannot_load_is_told_in_the_servers_words(desk: Desk) -> None:
    deployed(desk, "good 1")

    ran = desk.run("deploy", desk.staged("broken 2"), "--model", MODEL, "--json")

    assert ran.code == 1
    assert ran.json["exit_code"] == 1
    assert "does not appear to contain a SavedModel bundle" in ran.json["error"]
    assert desk.stable() == [1, 1]


def test_the_steps_one_by_one(desk: Desk) -> None:
    published = desk.run("publish", desk.staged("good 1"), "--model", MODEL, "--json")
    assert published.code == 0
    assert published.json["version"] == 1
    assert published.json["uploaded_bytes"] > 0
    assert desk.run("load", MODEL, 1).code == 0
    validated = desk.run("validate", MODEL, 1, "--json")
    assert (validated.code, validated.json["verdict"]) == (0, "pass")
    assert {check["replica"] for check in validated.json["checks"]} == set(desk.servers)
    promoted = desk.run("promote", MODEL, 1, "--actor", "ann", "--reason", "Monday", "--json")
    assert (promoted.code, promoted.json["version"], promoted.json["actor"]) == (0, 1, "ann")
    assert promoted.json["reason"] == "Monday"
    assert desk.stable() == [1, 1]


def test_publishing_the_same_bytes_again_moves_none(desk: Desk) -> None:
    first = desk.run("publish", desk.staged("good 1"), "--model", MODEL, "--json")
    again = desk.run("publish", desk.staged("good 1"), "--model", MODEL, "--json")

    assert again.json["version"] == first.json["version"]
    assert (again.json["uploaded_bytes"], again.json["created"]) == (0, False)
    assert "already" in desk.run("publish", desk.staged("good 1"), "--model", MODEL).out


def test_promote_is_refused_without_a_validation(desk: Desk) -> None:
    desk.run("publish", desk.staged("good 1"), "--model", MODEL)
    desk.run("load", MODEL, 1)

    ran = desk.run("promote", MODEL, 1)

    assert ran.code == 1
    assert "never validated" in ran.err
    assert "tfs-deploy validate half_plus_two 1" in ran.err
    assert desk.stable() == [None, None]


def test_a_failed_validation_prints_the_table_and_ends_with_1(desk: Desk) -> None:
    desk.run("publish", desk.staged("wrong 1"), "--model", MODEL)
    desk.run("load", MODEL, 1)

    ran = desk.run("validate", MODEL, 1)

    assert ran.code == 1
    assert "fail" in ran.out
    assert "golden" in ran.out


def test_a_replica_that_does_not_answer_makes_a_validation_inconclusive(desk: Desk) -> None:
    desk.run("publish", desk.staged("good 1"), "--model", MODEL)
    desk.run("load", MODEL, 1)
    desk.servers["replica-2:8500"].unreachable = True

    ran = desk.run("validate", MODEL, 1, "--json")

    assert ran.code == 3
    assert ran.json["verdict"] == "inconclusive"


def test_rollback_swaps_and_says_so(desk: Desk) -> None:
    deployed(desk, "good 1", "good 2")

    ran = desk.run("rollback", MODEL, "--reason", "too slow", "--json")

    assert (ran.code, ran.json["version"], ran.json["previous"], ran.json["reason"]) == (0, 1, 2, "too slow")
    assert desk.stable() == [1, 1]
    assert desk.run("rollback", MODEL, "--to", 2).code == 0
    assert desk.stable() == [2, 2]


def test_a_label_stands_for_its_version(desk: Desk) -> None:
    deployed(desk, "good 1", "good 2")

    assert desk.run("validate", MODEL, "stable", "--json").json["version"] == 2
    assert desk.run("rollback", MODEL, "--to", "previous", "--json").json["version"] == 1


def test_reject_takes_a_version_that_nothing_points_to(desk: Desk) -> None:
    deployed(desk, "good 1")
    desk.run("publish", desk.staged("good 2"), "--model", MODEL)

    assert desk.run("reject", MODEL, 2, "--reason", "by mistake").code == 0
    assert not (desk.store / MODEL / "2").exists()
    live = desk.run("reject", MODEL, 1, "--reason", "by mistake")
    assert live.code == 1
    assert "stable" in live.err


def test_retire_says_what_it_would_do_and_does_it(desk: Desk) -> None:
    deployed(desk, "good 1", "good 2", "good 3", "good 4")

    plan = desk.run("retire", MODEL, "--keep", 1, "--dry-run", "--json")
    assert (plan.json["retired"], plan.json["kept"]) == ([1], [2, 3, 4])
    assert (desk.store / MODEL / "1").exists()

    done = desk.run("retire", MODEL, "--keep", 1)
    assert done.code == 0
    assert done.out == "Deleted version 1 of half_plus_two; versions 2, 3, 4 stay.\n"
    assert not (desk.store / MODEL / "1").exists()


def test_inspect_needs_neither_store_nor_server(desk: Desk) -> None:
    ran = desk.run("inspect", desk.staged("good 1"), "--json", where=False)

    assert ran.code == 0, ran.err
    assert ran.json["fingerprint"].startswith("sha256:")
    assert ran.json["manifest"] is True
    assert ran.json["golden_requests"] is True
    assert ran.json["signatures"]["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    table = desk.run("inspect", desk.staged("good 1"), where=False).out
    assert "x: float [?]" in table
    assert "saved_model.pb" in table


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("inspect", "nosuch"), "'nosuch'"),
        (("inspect", "empty"), "saved_model.pb"),
        (("publish", "empty", "--model", MODEL), "saved_model.pb"),
        (("deploy", "empty", "--model", MODEL), "saved_model.pb"),
        pytest.param(("validate", "empty"), "saved_model.pb", marks=NEEDS_TENSORFLOW),
        (("validate", "nosuch"), "'nosuch'"),
        (("deploy", "nosuch", "--model", MODEL), "nosuch"),
        (("export", "nosuch.keras", "--out", "out"), "nosuch.keras"),
        (("export", "nosuch", "--out", "out"), "nosuch"),
        (("export", "staged/good_1", "--out", "out", "--samples", "nosuch.npz"), "nosuch.npz"),
        (("promote", MODEL, "nosuch"), "'nosuch'"),
        (("promote", MODEL, 99), "99"),
        (("rollback", MODEL, "--to", 99), "99"),
        (("reject", MODEL, 99, "--reason", "a test"), "99"),
        (("validate", MODEL, 1, "--gates", "nosuch.yaml"), "nosuch.yaml"),
        (("validate", MODEL, 1, "--gates", "nogolden.yaml"), "nosuch.golden"),
        (("deploy", "staged/good_2", "--model", MODEL, "--gates", "nolabelled.yaml"), "nosuch.npz"),
        (("deploy", "staged/good_2", "--model", MODEL, "--gates", "badkey.yaml"), "badkey.yaml"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_a_mistake_of_the_caller_ends_with_2_and_changes_nothing(
    desk: Desk, arguments: tuple[object, ...], named: str
) -> None:
    deployed(desk, "good 1")
    desk.staged("good 2")
    (desk.folder / "empty").mkdir()
    (desk.folder / "nogolden.yaml").write_text("golden: {file: nosuch.golden}\n")
    (desk.folder / "nolabelled.yaml").write_text("accuracy: {file: nosuch.npz}\n")
    (desk.folder / "badkey.yaml").write_text("acuracy: {}\n")
    before = desk.run("history", MODEL, "--json").json

    ran = desk.run(*arguments, where=arguments[0] not in ("inspect", "export"))

    assert ran.code == 2, ran.err
    assert ran.out == ""
    sentence = ran.err.splitlines()[-1]
    assert sentence.startswith("tfs-deploy: ")
    assert named in sentence
    assert "Badkey" not in sentence
    assert desk.run("history", MODEL, "--json").json == before
    assert desk.stable() == [1, 1]


@pytest.mark.parametrize("mistake", BAD_GATES)
def test_a_mistake_in_the_gates_is_reported_before_anything_is_published(desk: Desk, mistake: str) -> None:
    staged = write_saved_model(desk.folder / "text", "good", signatures=TEXT_OUTPUT)
    gates = write_bad_gates(desk.folder / "gates", mistake)

    ran = desk.run("deploy", staged, "--model", MODEL, "--gates", gates)

    assert ran.code == 2, ran.err
    assert not (desk.store / MODEL).exists()
    assert desk.run("history", MODEL).code == 2, "there is no record"
    assert desk.run("validate", staged, "--gates", gates, where=False).code == 2


@pytest.mark.parametrize("mistake", BAD_GATES)
def test_a_mistake_in_the_gates_rejects_no_version(desk: Desk, mistake: str) -> None:
    staged = write_saved_model(desk.folder / "text", "good", signatures=TEXT_OUTPUT)
    desk.run("publish", staged, "--model", MODEL)
    desk.run("load", MODEL, 1)

    ran = desk.run("validate", MODEL, 1, "--gates", write_bad_gates(desk.folder / "gates", mistake), "--json")

    assert (ran.code, ran.json["exit_code"]) == (2, 2)
    assert [entry["action"] for entry in desk.run("history", MODEL, "--json").json] == ["published"]
    assert (desk.store / MODEL / "1").exists()


def test_inspect_finds_a_changed_byte(desk: Desk) -> None:
    staged = desk.staged("good 1")
    (staged / "variables" / "variables.index").write_bytes(b"INDEX")

    ran = desk.run("inspect", staged, where=False)

    assert ran.code == 1
    assert "variables.index" in ran.err


def test_environment_and_file_say_where_as_well(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(desk, "good 1")
    monkeypatch.setenv("TFS_DEPLOY_STORE", str(desk.store))
    (desk.folder / "tfs-deploy.yaml").write_text(f"target: [{', '.join(desk.servers)}]\n")

    assert desk.run("status", "--json", where=False).json["models"][MODEL]["labels"] == {"stable": 1}


def test_a_simple_group_is_told_what_it_cannot_do(desk: Desk) -> None:
    (desk.folder / "tfs-deploy.yaml").write_text("mode: latest\n")

    ran = desk.run("promote", MODEL, 1)
    assert ran.code == 1
    assert "latest version by itself" in ran.err
    assert desk.run("rollback", MODEL, "--to", 1).code == 2
    ran = desk.run("publish", desk.staged("good 1"), "--model", MODEL)
    assert ran.code == 1
    assert "publishing is going live" in ran.err
    assert not (desk.store / MODEL).exists()


def test_without_tensorflow_a_directory_cannot_be_validated(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = desk.run("validate", desk.staged("good 1"), where=False)
    assert ran.code == 2
    assert "pip install tensorflow" in ran.err


def test_no_wait_returns_before_the_version_is_there(desk: Desk) -> None:
    deployed(desk, "good 1")
    desk.run("publish", desk.staged("good 2"), "--model", MODEL)
    for server in desk.servers.values():
        server.immediate = False

    ran = desk.run("load", MODEL, 2, "--no-wait", "--json")

    assert (ran.code, ran.json["available"]) == (0, None)
    assert [server.state(MODEL, 2) for server in desk.servers.values()] == [None, None]


@pytest.mark.parametrize("command", [("publish", "--model", MODEL), ("deploy", "--model", MODEL), ("validate",)])
def test_a_directory_whose_name_is_too_long_is_not_there(desk: Desk, command: tuple[str, ...]) -> None:
    ran = desk.run(command[0], "x" * 300, *command[1:])
    assert ran.code in {1, 2}
    assert "There is no directory" in ran.err


def test_a_golden_file_that_is_a_directory_is_told(desk: Desk) -> None:
    deployed(desk, "good 1")
    (desk.folder / "gates.yaml").write_text("golden: {file: staged}\n")
    ran = desk.run("validate", MODEL, 1, "--gates", desk.folder / "gates.yaml")
    assert ran.code == 2
    assert "Is a directory" in ran.err


def test_golden_requests_from_a_gates_file_count(desk: Desk) -> None:
    write_golden(desk.folder / "golden", MODEL, GOLDEN)
    (desk.folder / "gates.yaml").write_text("golden: {file: golden}\n")
    desk.run("publish", desk.staged("good 1"), "--model", MODEL)
    desk.run("load", MODEL, 1)

    ran = desk.run("validate", MODEL, 1, "--gates", desk.folder / "gates.yaml", "--json")

    assert ran.code == 0
    assert "golden" in {check["gate"] for check in ran.json["checks"]}
