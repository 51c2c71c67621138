"""The whole way with models that this project did not write, typed as a user would, on two real replicas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from cli.replicas import PLUS_THREE, PLUS_TWO, PLUS_TWO_TF2, Site, child, copy_of, told
from embedded_server import EmbeddedServer

pytestmark = pytest.mark.tensorflow

MODEL = "half"
TWO, THREE = [2.5, 3.0, 4.5], [3.5, 4.0, 5.5]


@pytest.fixture(scope="module")
def replicas() -> Iterator[tuple[str, str]]:
    with EmbeddedServer() as first, EmbeddedServer() as second:
        yield first.target, second.target


def test_deploy_twice_roll_back_retire_and_look(replicas: tuple[str, str], shared_models: Path, tmp_path: Path) -> None:
    site = Site(tmp_path / "store", replicas)

    first = site.child("deploy", shared_models / PLUS_TWO, "--model", MODEL, "--json")
    assert first.code == 0, first.out + first.err
    assert first.json["version"] == 1
    assert site.answers(MODEL) == [(1, TWO)] * 2
    after_first = datetime.now(timezone.utc)

    second = site.child("deploy", shared_models / PLUS_THREE, "--model", MODEL, "--actor", "ann")
    assert second.code == 0, second.err
    assert "Version 2 of half is live (before: 1)" in second.out
    assert "publish" in second.err
    assert site.answers(MODEL) == [(2, THREE)] * 2

    back = site.child("rollback", MODEL, "--reason", "off by one")
    assert back.code == 0, back.err
    assert site.answers(MODEL) == [(1, TWO)] * 2

    forward = site.child("rollback", MODEL, "--json")
    assert forward.code == 0, forward.out
    assert (forward.json["version"], forward.json["previous"]) == (2, 1)
    third = site.child("deploy", shared_models / PLUS_TWO_TF2, "--model", MODEL)
    assert third.code == 0, third.err

    retired = site.child("retire", MODEL, "--keep", 0, "--json")
    assert (retired.code, retired.json["retired"], retired.json["kept"]) == (0, [1], [2, 3])
    assert not (site.store / MODEL / "1").exists()

    status = site.child("status", "--json")
    assert status.code == 0, status.out
    model = status.json["models"][MODEL]
    assert model["labels"] == {"previous": 2, "stable": 3}
    for target in replicas:
        states = model["replicas"][target]["versions"]
        assert (states["2"], states["3"]) == ("AVAILABLE", "AVAILABLE")
        assert states.get("1", "END") == "END"
        assert model["replicas"][target]["labels"] == {"previous": 2, "stable": 3}

    history = site.child("history", MODEL, "--json")
    moves = [(entry["action"], entry["version"]) for entry in history.json if entry["action"] != "validated"]
    assert moves == [
        ("published", 1),
        ("promoted", 1),
        ("published", 2),
        ("promoted", 2),
        ("rolled_back", 1),
        ("rolled_back", 2),
        ("published", 3),
        ("promoted", 3),
        ("retired", 1),
    ]
    assert next(entry["actor"] for entry in history.json if entry["version"] == 2) == "ann"

    served = site.child("what-served", MODEL, "--at", after_first.isoformat(), "--json")
    assert served.json["version"] == 1


def test_a_directory_is_validated_on_a_throw_away_server(shared_models: Path, tmp_path: Path) -> None:
    good = child("validate", shared_models / PLUS_TWO_TF2, "--json")
    assert good.code == 0, good.out + good.err
    assert good.json["verdict"] == "pass"

    broken = copy_of(shared_models / PLUS_TWO_TF2, tmp_path / "broken", without="variables")
    bad = child("validate", broken)
    assert bad.code == 1, bad.out + bad.err
    assert list(tmp_path.iterdir()) == [broken]


def test_a_directory_that_is_none_is_told(tmp_path: Path) -> None:
    ran = child("validate", tmp_path / "nothing")
    assert ran.code == 2
    assert str(tmp_path / "nothing") in told(ran)


def test_export_takes_a_savedmodel_as_it_is(shared_models: Path, tmp_path: Path) -> None:
    ran = child("export", shared_models / PLUS_TWO, "--out", tmp_path / "out", "--provenance", "run=7", "--json")
    assert ran.code == 0, ran.out + ran.err
    assert ran.json["provenance"]["run"] == "7"

    looked = child("inspect", tmp_path / "out", "--json")
    assert looked.code == 0, looked.out + looked.err
    assert looked.json["fingerprint"] == ran.json["fingerprint"]
    assert looked.json["manifest"] is True


def test_a_checkpoint_that_is_none_leaves_no_directory(tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_bytes(b"not a model")
    ran = child("export", tmp_path / "model.keras", "--out", tmp_path / "out", "--json")
    assert ran.code == 1
    assert json.loads(ran.out)["exit_code"] == 1
    assert ran.err == ""
    assert not (tmp_path / "out").exists()
