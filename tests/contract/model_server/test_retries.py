"""Loads that are tried again in a pool of threads: contract 4.3 and 20.7."""

from __future__ import annotations

import pytest

from contract.model_server.place import LOADERR, Events, is_in_order
from modelserver.wire import Wire, model, wait_state

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def patient(start):
    """Two threads for loads, and up to five retries after 3 s each, time enough for a poll."""
    flags = ("--num_load_threads=2", "--num_unload_threads=1", "--max_num_load_retries=5")
    with start(*flags, "--load_retry_interval_micros=3000000") as started:
        yield started
        assert started.process.poll() is None, started.log()[-5000:]


@pytest.fixture
def wire(patient):
    """The wire of that server instead of the shared one."""
    connected = Wire(patient.target)
    yield connected
    connected.reload()
    connected.close()


def test_dropped_during_its_retries_a_version_gets_one_more_attempt_and_is_never_available(
    patient, wire, name, install, place
):
    """Still broken it ends with its own error; good by then, it is unloaded at once and was cancelled."""
    install("scale1", 1)
    for version in (2, 3):
        (place / "base" / str(version)).mkdir()
    wire.reload(model(name, place / "base", 1))
    wire.reload(model(name, place / "base", 1, 2, 3))
    with Events(patient.target, name) as events:
        for version in (2, 3):
            wait_state(wire, name, version, "LOADING")
        wire.reload(model(name, place / "base", 1))
        (place / "base" / "3").rmdir()
        install("scale3", 3)
        assert wait_state(wire, name, 2, "END", 8) == (5, f"{LOADERR}{place}/base/2")
        assert wait_state(wire, name, 3, "END", 8) == (1, "Loading of servable cancelled")
    assert is_in_order(events.of(3), ("START", "LOADING", "END"))
    assert wire.predict_error(name, version=3)[0] == "NOT_FOUND"
    assert wire.answer(name) == 1.0
    # Named again, it is tried afresh.
    wire.reload(model(name, place / "base", 1, 3))
    wait_state(wire, name, 3, "AVAILABLE")


def test_others_load_while_one_is_tried_again(wire, name, install, place):
    install("scale1", 1)
    (place / "base" / "2").mkdir()
    wire.reload(model(name, place / "base", 1))
    wire.reload(model(name, place / "base", 1, 2, 3))
    wait_state(wire, name, 2, "LOADING")
    install("scale3", 3)
    wait_state(wire, name, 3, "AVAILABLE", 4)
    assert wire.states(name) == {3: "AVAILABLE", 2: "LOADING", 1: "AVAILABLE"}
