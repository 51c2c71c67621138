"""A server with the default threads, retries, and no excuse for labels: contract 20.4, 20.7 and 20.11."""

from __future__ import annotations

import shutil
import time

import grpc
import pytest

from contract.model_server.place import LOADERR, Events, is_in_order
from modelserver.wire import Wire, model, wait_state

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def plain(start):
    """One retry after 2.5 s, on the manager's own thread."""
    with start("--max_num_load_retries=1", "--load_retry_interval_micros=4000000") as started:
        yield started
        assert started.process.poll() is None, started.log()[-5000:]


@pytest.fixture
def wire(plain):
    """The wire of that server instead of the shared one."""
    connected = Wire(plain.target)
    yield connected
    connected.reload()
    connected.close()


def refused(version, name):
    return (
        "FAILED_PRECONDITION",
        f"Request to assign label to version {version} of model {name}, which is not currently available for inference",
    )


def test_no_health_service(wire):
    with pytest.raises(grpc.RpcError) as failed:
        wire.channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=60, wait_for_ready=True)
    assert (failed.value.code().name, failed.value.details()) == ("UNIMPLEMENTED", "")


def test_a_label_for_a_version_that_is_not_available_changes_nothing(wire, name, install, place):
    install("scale1", 1)
    # A new model and its label in one config.
    assert wire.reload_error(model(name, place / "base", 1, labels={"stable": 1})) == refused(1, name)
    assert wire.rows(name) == []
    wire.reload(model(name, place / "base", 1))
    wire.reload(model(name, place / "base", 1, labels={"stable": 1}))
    assert wire.reload_error(model(name, place / "base", 77, labels={"stable": 9})) == refused(9, name)
    time.sleep(1.2)
    assert wire.states(name) == {1: "AVAILABLE"}
    assert wire.answer(name, label="stable") == 1.0
    # The version goes with the label on it; after that the same mapping is refused too.
    wire.reload(model(name, place / "base", 77, labels={"stable": 1}))
    wait_state(wire, name, 1, "END")
    assert wire.reload_error(model(name, place / "base", 77, labels={"stable": 1})) == refused(1, name)


def test_one_bad_version_blocks_all_models_and_shows_loading_until_the_last_retry(plain, wire, name, install, place):
    good, bad = model(f"{name}_g", place / "base"), model(name, place / "bad")
    install("scale1", 1)
    (place / "bad" / "1").mkdir(parents=True)
    wire.reload(good)
    with Events(plain.target, name) as events:
        assert wire.reload_error(good, bad, timeout=0.3)[0] == "DEADLINE_EXCEEDED"
        wait_state(wire, name, 1, "LOADING")
        install("scale2", 2)
        time.sleep(1.2)
        # Found by the poll, but the manager is asleep between two attempts; and deleting cancels nothing.
        assert wire.states(f"{name}_g").get(2) in (None, "START")
        assert wire.answer(f"{name}_g") == 1.0
        (place / "bad" / "1").rmdir()
        code, text = wait_state(wire, name, 1, "END")
    assert (code, text) == (5, f"{LOADERR}{place}/bad/1")
    assert is_in_order(events.of(1))
    assert events.of(1)[-2:] == ["LOADING", "END"]
    wait_state(wire, f"{name}_g", 2, "AVAILABLE")


def test_a_directory_that_is_repaired_between_the_retries_loads(wire, models, name, place):
    (place / "base" / "1").mkdir(parents=True)
    config = model(name, place / "base")
    assert wire.reload_error(config, timeout=0.3)[0] == "DEADLINE_EXCEEDED"
    wait_state(wire, name, 1, "LOADING")
    shutil.copytree(models / "scale1", place / "base" / "1", dirs_exist_ok=True)
    wait_state(wire, name, 1, "AVAILABLE")
    assert wire.answer(name) == 1.0


def test_a_burnt_number_under_latest(wire, name, install, place):
    """A failed newest is not tried again, not even when its directory is replaced; only a higher number gets out."""
    install("scale1", 1)
    wire.reload(model(name, place / "base"))
    (place / "base" / "2").mkdir()
    wait_state(wire, name, 2, "END")
    (place / "base" / "2").rmdir()
    time.sleep(1.4)
    install("scale2", 2)
    time.sleep(1.4)
    assert wire.states(name) == {2: "END", 1: "AVAILABLE"}
    assert wire.answer(name) == 1.0
    install("scale3", 3)
    wait_state(wire, name, 3, "AVAILABLE")
    wait_state(wire, name, 1, "END")


def test_a_version_that_is_dropped_before_its_load_began_stays_start_for_ever(wire, name, install, place):
    install("scale1", 1)
    install("scale2", 2)
    (place / "base" / "3").mkdir()
    assert wire.reload_error(model(name, place / "base", 1, 2, 3), timeout=0.3)[0] == "DEADLINE_EXCEEDED"
    wait_state(wire, name, 3, "LOADING")
    assert wire.states(name) == {3: "LOADING", 2: "START", 1: "START"}
    (place / "base" / "2").rename(place / "away")  # the poll sees it while the manager is busy with 3
    wait_state(wire, name, 3, "END")
    wait_state(wire, name, 1, "AVAILABLE")
    time.sleep(1.2)
    assert wire.states(name) == {3: "END", 2: "START", 1: "AVAILABLE"}
