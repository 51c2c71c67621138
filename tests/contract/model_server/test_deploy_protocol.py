"""The deploy protocol and its traps on a running server: contract 20.10."""

from __future__ import annotations

import time

import pytest

from contract.model_server.place import RPC_DRIVEN_FLAGS, entry, write_config
from modelserver.wire import Wire, model, wait_state

pytestmark = pytest.mark.tensorflow


def test_deploy_and_roll_back_by_label(wire, name, install, place):
    base = place / "base"
    install("scale1", 1)
    install("scale2", 2)
    wire.reload(model(name, base, 1))
    assert wire.states(name) == {1: "AVAILABLE"}
    wire.reload(model(name, base, 1, labels={"stable": 1}))
    wire.reload(model(name, base, 1, 2, labels={"stable": 1}))
    wait_state(wire, name, 2, "AVAILABLE")
    assert wire.answer(name, label="stable") == 1.0
    wire.reload(model(name, base, 1, 2, labels={"stable": 2, "previous": 1}))
    assert (wire.answer(name, label="stable"), wire.answer(name, label="previous")) == (2.0, 1.0)
    wire.reload(model(name, base, 1, 2, labels={"stable": 1}))
    assert wire.answer(name, label="stable") == 1.0
    assert wire.predict_error(name, label="previous")[1] == "Unrecognized servable version label: previous"


def test_dangling_label(wire, name, install, place):
    base = place / "base"
    install("scale1", 1)
    install("scale3", 3)
    wire.reload(model(name, base, 1, 3))
    wait_state(wire, name, 1, "AVAILABLE")
    wire.reload(model(name, base, 1, 3, labels={"stable": 3}))
    wire.reload(model(name, base, 1, labels={"stable": 3}))
    wait_state(wire, name, 3, "END")
    assert wire.predict_error(name, label="stable") == (
        "NOT_FOUND",
        f"Servable not found for request: Specific({name}, 3)",
    )
    wire.reload(model(name, base, 1, labels={"stable": 3}))  # the same mapping again is excused by the flag


def test_a_second_name_on_the_same_base_path_is_waited_for(wire, name, install, place):
    install("scale1", 1)
    install("scale2", 2)
    wire.reload(model(name, place / "base", 1))
    wire.reload(model(name, place / "base", 1), model(f"{name}--candidate", place / "base", 2))
    assert wire.states(f"{name}--candidate") == {2: "AVAILABLE"}


def test_wedge_without_overlap(wire, name, install, place):
    install("scale1", 1)
    (place / "base" / "2").mkdir()
    install("scale3", 3)
    wire.reload(model(name, place / "base", 1))
    wire.reload(model(name, place / "base", 2))
    wait_state(wire, name, 2, "END")
    wire.reload(model(name, place / "base", 1, 3))
    time.sleep(2.5)
    assert wire.states(name) == {2: "END", 1: "AVAILABLE"}
    assert wire.answer(name) == 1.0
    wire.reload(model(name, place / "base", 3))
    wait_state(wire, name, 3, "AVAILABLE")
    wait_state(wire, name, 1, "END")


def test_one_config_that_adds_a_version_and_moves_the_label_to_it(wire, name, install, place):
    install("scale1", 1)
    install("scale2", 2)
    wire.reload(model(name, place / "base", 1))
    wire.reload(model(name, place / "base", 1, labels={"stable": 1}))
    assert wire.reload_error(model(name, place / "base", 1, 2, labels={"stable": 2}))[0] == "FAILED_PRECONDITION"
    time.sleep(1.3)
    assert wire.states(name) == {1: "AVAILABLE"}
    wire.reload(model(name, place / "base", 1, 2, labels={"stable": 1}))
    wait_state(wire, name, 2, "AVAILABLE")
    wire.reload(model(name, place / "base", 1, 2, labels={"stable": 2}))
    assert wire.answer(name, label="stable") == 2.0


def test_overlap_survives_a_broken_version(wire, name, install, place):
    install("scale1", 1)
    (place / "base" / "2").mkdir()
    wire.reload(model(name, place / "base", 1))
    wire.reload(model(name, place / "base", 1, 2))
    wait_state(wire, name, 2, "END")
    wire.reload(model(name, place / "base", 1))
    install("scale3", 3)
    wire.reload(model(name, place / "base", 1, 3))
    wait_state(wire, name, 3, "AVAILABLE")
    assert wire.states(name) == {3: "AVAILABLE", 2: "END", 1: "AVAILABLE"}


def test_restart_on_a_file_with_labels(start, install, place):
    for version in (1, 2):
        install(f"scale{version}", version)
    config = write_config(place / "models.config", entry("m", place / "base", 1, 2, stable=1, canary=2))
    with start(config, *RPC_DRIVEN_FLAGS) as server:
        wire = Wire(server.target)
        # From the first request on: the port opens when both loads have ended.
        assert (wire.answer("m", label="stable"), wire.answer("m", label="canary")) == (1.0, 2.0)
        wire.close()
