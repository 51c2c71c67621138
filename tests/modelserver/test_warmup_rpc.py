"""Warm-up with every kind of request (contract 9): those that can be answered load, one that cannot fails the load."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from modelserver.conftest import wait_state
from modelserver.inference_requests import CLASSIFY, REGRESS, classification, example, multi, regression
from modelserver.wire import Wire, model, predict_request
from tfs_deploy.savedmodel.requests import WARMUP_PATH
from tfs_deploy.savedmodel.tfrecord import encode
from tfs_deploy.serving.codec import messages

pytestmark = pytest.mark.tensorflow

X = {"x": np.float32([1])}
ONE = example(x=1.0)
# (records' field, request, code, message); the names of models in the requests mean nothing.
GOOD = (
    ("predict_log", predict_request("any", inputs=X)),
    ("classify_log", classification("any", "classify_x_to_y", ONE)),
    ("regress_log", regression("any", "regress_x_to_y", ONE)),
    ("multi_inference_log", multi([("any", "classify_x_to_y", CLASSIFY), ("any", "regress_x_to_y", REGRESS)], ONE)),
)
BAD = (
    ("classify_log", classification("any", "zz", ONE), 3, "No signature was found with the name: zz"),
    ("regress_log", regression("any", "regress_x_to_y"), 3, "Input is empty."),
    (
        "multi_inference_log",
        multi([("any", "regress_x_to_y", "tensorflow/serving/predict")], ONE),
        12,
        "Unsupported signature method_name: tensorflow/serving/predict",
    ),
)


def write(directory, *logs):
    records = []
    for kind, request in logs:
        log = messages.PredictionLog()
        getattr(log, kind).request.CopyFrom(request)
        records.append(log.SerializeToString())
    (directory / WARMUP_PATH).parent.mkdir(exist_ok=True)
    (directory / WARMUP_PATH).write_bytes(b"".join(encode([*records, messages.PredictionLog().SerializeToString()])))


@pytest.fixture(scope="module")
def loaded(server, shared_models, tmp_path_factory):
    """Version 1 with good warm-up requests, from 2 on with one bad request each, of a model called ``warm``."""
    base = tmp_path_factory.mktemp("warm") / "base"
    for number, logs in enumerate([GOOD, *([bad[:2]] for bad in BAD)], 1):
        shutil.copytree(shared_models / "half_plus_two_2_versions" / "00000123", base / str(number))
        write(base / str(number), *logs)
    wire = Wire(server.target)
    wire.reload(model("warm", base, 1))
    wire.reload(model("warm", base, *range(1, 2 + len(BAD))))
    yield wire
    wire.reload()
    wire.close()


def test_every_kind_is_replayed(loaded, server):
    assert wait_state(loaded, "warm", 1, "AVAILABLE") == (0, "")
    assert f"Number of warmup records read: {len(GOOD) + 1}." in server.log()


@pytest.mark.parametrize(("number", "bad"), list(enumerate(BAD, 2)), ids=[bad[0] for bad in BAD])
def test_a_request_that_fails_fails_the_load(loaded, number, bad):
    assert wait_state(loaded, "warm", number, "END") == bad[2:]
    assert loaded.states("warm")[1] == "AVAILABLE"
