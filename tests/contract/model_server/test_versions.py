"""Versions come and go on a running server, in the order of contract 20.6; what counts as one: contract 3 and 20.11."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from contract.model_server.place import Events, is_in_order
from modelserver.wire import Wire, eventually, model, predict_request, wait_state
from tfs_deploy.serving import rpc

pytestmark = pytest.mark.tensorflow


def test_hot_load_under_latest_without_a_gap(server, wire, name, install, place):
    install("scale1", 1)
    wire.reload(model(name, place / "base"))
    answers, done = [], threading.Event()

    def ask():
        while not done.is_set():
            answers.append(wire.answer(name))

    with Events(server.target, name) as events:
        asking = threading.Thread(target=ask)
        asking.start()
        install("scale2", 2)
        assert wait_state(wire, name, 1, "END") == (0, "")
        done.set()
        asking.join()
    assert wire.rows(name) == [(2, "AVAILABLE", 0, ""), (1, "END", 0, "")]
    assert (answers[0], answers[-1]) == (1.0, 2.0)
    assert answers == sorted(answers)
    # Load before unload: one of them is AVAILABLE in every answer, and 1 goes only when 2 is there.
    assert all("AVAILABLE" in frame.values() for frame in events.frames)
    assert all(frame.get(2) == "AVAILABLE" for frame in events.frames if frame[1] != "AVAILABLE")
    assert events.of(2)[-2:] == ["LOADING", "AVAILABLE"]
    assert is_in_order(events.of(2))
    assert events.of(1)[0] == "AVAILABLE"
    assert is_in_order(events.of(1))


def test_deleting_the_newest_loads_the_next_lower_first(server, wire, name, install, place):
    for version in (1, 2):
        install(f"scale{version}", version)
    wire.reload(model(name, place / "base"))
    assert wire.states(name) == {2: "AVAILABLE"}
    with Events(server.target, name) as events:
        (place / "base" / "2").rename(place / "away")
        wait_state(wire, name, 2, "END")
    assert wire.answer(name) == 1.0
    assert all("AVAILABLE" in frame.values() for frame in events.frames)
    assert all(frame.get(1) == "AVAILABLE" for frame in events.frames if frame[2] != "AVAILABLE")


def test_an_emptied_base_path_unloads_everything(wire, name, install, place):
    install("scale1", 1)
    wire.reload(model(name, place / "base"))
    (place / "base" / "1").rename(place / "away")
    assert wait_state(wire, name, 1, "END") == (0, "")
    assert wire.predict_error(name) == ("NOT_FOUND", f"Servable not found for request: Latest({name})")
    assert wire.predict_error(name, version=1)[1] == f"Servable not found for request: Specific({name}, 1)"


# The names in a base path, what is served under `latest`, and what is not.
NAMES = (
    ("zero_padded", ("007",), 7), ("plus", ("+7",), 7), ("space_before", (" 8",), 8), ("space_after", ("9 ",), 9),
    ("zero", ("0",), 0), ("negative", ("-1",), -1), ("highest", ("1", str(2**63 - 1)), 2**63 - 1),
    ("too_high", ("1", str(2**63)), 1), ("dotted", ("1", "2.0"), 1), ("prefixed", ("1", "v2"), 1),
    ("temporary", ("1", "2.tmp", ".3", "4_tmp"), 1), ("exponent", ("1", "1e3"), 1), ("hexadecimal", ("1", "0x10"), 1),
    ("by_number", ("9", "10"), 10),
)  # fmt: skip


@pytest.fixture(scope="module")
def named(server, models, model_root):
    """Every case of NAMES as a model of one config."""
    root, wire, configs = model_root / "names", Wire(server.target), []
    for case, directories, _ in NAMES:
        (root / case).mkdir(parents=True)
        for directory in directories:
            (root / case / directory).symlink_to(models / "scale1")
        configs.append(model(f"named_{case}", root / case))
    (root / "both").mkdir()
    for directory, source in (("1", "scale1"), ("001", "scale2")):
        (root / "both" / directory).symlink_to(models / source)
    wire.reload(*configs, model("named_both", root / "both"), timeout=60)
    yield wire
    wire.reload()
    wire.close()


@pytest.mark.parametrize(("case", "directories", "version"), NAMES, ids=[case[0] for case in NAMES])
def test_names_that_are_versions(named, case, directories, version):
    assert named.states(f"named_{case}") == {version: "AVAILABLE"}
    assert named.predict(f"named_{case}").model_spec.version.value == version


def test_of_two_names_for_one_number_the_last_in_order_is_used(named):
    assert named.states("named_both") == {1: "AVAILABLE"}
    assert named.answer("named_both") == 1.0


def test_policies(wire, name, install, place):
    for version in (1, 2, 3):
        install(f"scale{version}", version)
    for policy, expected in (
        ({"latest": {"num_versions": 2}}, {3, 2}),
        ({"all": {}}, {3, 2, 1}),
        ({"latest": {"num_versions": 0}}, {3}),
        ({"specific": {"versions": [1, 9]}}, {1}),
        ({"specific": {}}, set()),
    ):
        wire.reload(model(name, place / "base", model_version_policy=policy))
        eventually(lambda expected=expected: available(wire, name) == expected)


def available(wire, name):
    return {version for version, state in wire.states(name).items() if state == "AVAILABLE"}


def test_a_directory_that_comes_later(wire, name, install, place):
    install("scale1", 1)
    wire.reload(model(name, place / "base", 1, 2))
    assert wire.states(name) == {1: "AVAILABLE"}
    install("scale2", "002")
    wait_state(wire, name, 2, "AVAILABLE")
    assert wire.answer(name, version=1) == 1.0
    assert wire.answer(name) == 2.0


def test_missing_base_path_freezes_every_model(wire, name, install, place):
    install("scale1", 1)
    other = install("scale2", 1, place / "other").parent
    wire.reload(model(name, place / "base"), model(f"{name}_b", other))
    other.rename(place / "away")
    install("scale2", 2)
    time.sleep(2.5)
    assert wire.states(name) == {1: "AVAILABLE"}
    assert wire.answer(f"{name}_b") == 2.0
    (place / "away").rename(other)
    wait_state(wire, name, 2, "AVAILABLE")


def test_specific_with_nothing_that_exists_unloads_everything(wire, name, install, place):
    install("scale1", 1)
    wire.reload(model(name, place / "base", 1))
    wire.reload(model(name, place / "base", 77))
    wait_state(wire, name, 1, "END")
    assert wire.predict_error(name) == ("NOT_FOUND", f"Servable not found for request: Latest({name})")


def test_a_request_in_flight_holds_every_swap(wire, name, install, place):
    install("scale1", 1)
    install("several", 1, place / "other")
    wire.reload(model(name, place / "base"), model(f"{name}_slow", place / "other"))
    assert wire.predict(f"{name}_slow", signature="spin", inputs={"n": np.int32(1)})
    endless = predict_request(f"{name}_slow", signature="spin", inputs={"n": np.int32(2_000_000_000)})
    running = wire.start(rpc.PREDICT, endless, timeout=3.0)
    install("scale2", 2)
    # The new version answers already, while its row still says LOADING and the old one's AVAILABLE.
    eventually(lambda: wire.answer(name) == 2.0, 60)
    states = wire.states(name)
    if not running.done():
        assert states == {2: "LOADING", 1: "AVAILABLE"}
    assert running.exception() is not None
    wait_state(wire, name, 1, "END")
