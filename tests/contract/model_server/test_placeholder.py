"""The placeholder version on a model server: it loads at once as version 0, and every request says what it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from blocked_model import BlockedModel
from modelserver.wire import model, reload_request, wait_state
from placeholder_files import write_placeholder
from tfs_deploy.savedmodel.placeholder import MESSAGE
from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages

pytestmark = pytest.mark.tensorflow

ALIAS = MESSAGE.replace(" ", "_")


@pytest.fixture
def loaded(wire, name, place: Path) -> str:
    """The placeholder as the only version of a model of the test's own; return the model's name."""
    write_placeholder(place / "base" / "0")
    wire.reload(model(name, place / "base", 0))
    return name


def example_request(kind, name: str):
    request = kind(model_spec={"name": name})
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.0)
    return request


def test_it_is_version_0_and_answers_as_such(wire, loaded):
    assert wire.rows(loaded) == [(0, "AVAILABLE", 0, "")]
    for version in (None, 0):
        request = messages.GetModelMetadataRequest(model_spec={"name": loaded}, metadata_field=["signature_def"])
        if version is not None:
            request.model_spec.version.value = version
        spec = wire.call(rpc.GET_MODEL_METADATA, request).model_spec
        assert (spec.HasField("version"), spec.version.value) == (True, 0)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"x": np.ones(2, np.float32)},
        {"x": np.array([b"text"], object)},
        {"x": np.ones(2, np.float32), "y": np.ones(2, np.int64)},
        {ALIAS: np.ones((2, 3), np.float32)},
        {ALIAS: np.float32(1)},
    ],
    ids=["none", "float", "string", "two", "its own", "its own scalar"],
)
def test_a_predict_says_that_the_first_version_is_loading(wire, loaded, inputs):
    for version in (None, 0):
        code, text = wire.predict_error(loaded, inputs=inputs, version=version)
        assert code == "INVALID_ARGUMENT"
        assert MESSAGE in text.replace("_", " ")


def test_requests_of_examples_say_it_too(wire, loaded):
    several = messages.MultiInferenceRequest()
    several.tasks.add(model_spec={"name": loaded}, method_name="tensorflow/serving/classify")
    several.tasks[0].model_spec.signature_name = "serving_default"
    several.input.CopyFrom(example_request(messages.ClassificationRequest, loaded).input)
    for method, request in (
        (rpc.CLASSIFY, example_request(messages.ClassificationRequest, loaded)),
        (rpc.REGRESS, example_request(messages.RegressionRequest, loaded)),
        (rpc.MULTI_INFERENCE, several),
    ):
        code, text = wire.error(method, request)
        assert (code, MESSAGE in text.replace("_", " ")) == ("INVALID_ARGUMENT", True), method


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("predict", {"instances": [1.0, 2.0]}),
        ("predict", {"instances": [[1, 2], [3, 4]]}),
        ("predict", {"inputs": [[1.0]]}),
        ("predict", {"inputs": 1.0}),
        ("predict", {"inputs": {"x": [1.0], "y": ["a"]}}),
        ("classify", {"examples": [{"x": 1.0}]}),
        ("regress", {"examples": [{"x": 1.0}]}),
    ],
)
def test_rest_says_it(rest, loaded, verb, body):
    reply = rest.post(f"/v1/models/{loaded}:{verb}", body)
    assert reply.code == 400
    assert MESSAGE in reply.json["error"].replace("_", " ")


def test_rest_shows_version_0(rest, loaded):
    (row,) = rest.get(f"/v1/models/{loaded}/versions/0").json["model_version_status"]
    assert (row["version"], row["state"]) == ("0", "AVAILABLE")
    assert rest.get(f"/v1/models/{loaded}/metadata").json["model_spec"]["version"] == "0"


def test_the_first_real_version_takes_over_and_the_placeholder_unloads(wire, loaded, install, place):
    install("scale1", 1)
    wire.reload(model(loaded, place / "base", 0, 1))
    wait_state(wire, loaded, 1, "AVAILABLE")
    assert wire.answer(loaded) == 1.0
    wire.reload(model(loaded, place / "base", 1))
    wait_state(wire, loaded, 0, "END")
    assert wire.states(loaded) == {1: "AVAILABLE", 0: "END"}


@pytest.fixture
def blocked(place: Path) -> Iterator[BlockedModel]:
    """A model `slow` whose version 1 loads when the test says so."""
    slow = BlockedModel(place / "slow" / "1", place / "gate")
    yield slow
    slow.close()


def test_a_new_name_holds_up_the_labels_of_others_until_its_first_version_is_loaded(
    wire, name, install, place, blocked
):
    install("scale1", 1)
    install("scale2", 2)
    served = model(name, place / "base", 1, 2, labels={"stable": 1})
    moved = model(name, place / "base", 1, 2, labels={"stable": 2})
    wire.reload(model(name, place / "base", 1, 2))
    for version in (1, 2):
        wait_state(wire, name, version, "AVAILABLE")
    wire.reload(served)
    slow = model(f"{name}_slow", blocked.directory.parent, 1)
    loading = wire.start(rpc.HANDLE_RELOAD_CONFIG, reload_request(served, slow), timeout=120)
    wait_state(wire, f"{name}_slow", 1, "LOADING")
    moving = wire.start(rpc.HANDLE_RELOAD_CONFIG, reload_request(moved, slow), timeout=120)
    time.sleep(0.5)
    assert not loading.done()
    assert not moving.done()
    assert wire.answer(name, label="stable") == 1.0
    blocked.let_load()
    loading.result()
    moving.result()
    assert wire.answer(name, label="stable") == 2.0


def test_behind_the_placeholder_a_slow_first_version_holds_up_nobody(wire, name, install, place, blocked):
    install("scale1", 1)
    install("scale2", 2)
    served = model(name, place / "base", 1, 2, labels={"stable": 1})
    moved = model(name, place / "base", 1, 2, labels={"stable": 2})
    wire.reload(model(name, place / "base", 1, 2))
    for version in (1, 2):
        wait_state(wire, name, version, "AVAILABLE")
    base, slow = blocked.directory.parent, f"{name}_slow"
    write_placeholder(base / "0")
    wire.reload(served, model(slow, base, 0))
    assert wire.states(slow) == {0: "AVAILABLE"}
    wire.reload(served, model(slow, base, 0, 1))
    wait_state(wire, slow, 1, "LOADING")
    wire.reload(moved, model(slow, base, 0, 1))
    # The label has moved, and the load still waits for the test.
    assert wire.states(slow) == {0: "AVAILABLE", 1: "LOADING"}
    assert wire.answer(name, label="stable") == 2.0
    assert MESSAGE in wire.predict_error(slow)[1].replace("_", " ")
    blocked.let_load()
    wait_state(wire, slow, 1, "AVAILABLE")
    wire.reload(moved, model(slow, base, 1))
    wait_state(wire, slow, 0, "END")
    assert wire.answer(slow) == 2.0


def test_a_first_version_that_fails_leaves_the_placeholder_answering(wire, name, place, blocked):
    base = blocked.directory.parent
    write_placeholder(base / "0")
    wire.reload(model(name, base, 0))
    wire.reload(model(name, base, 0, 1))
    blocked.let_fail()
    code, text = wait_state(wire, name, 1, "END")
    assert (code, "No such file" in text) == (5, True)
    assert MESSAGE in wire.predict_error(name)[1].replace("_", " ")
    wire.reload()
    wait_state(wire, name, 0, "END")
