"""A server with --enable_signature_method_name_check (contract 20.11); TensorFlow 2 exports say predict everywhere."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from embedded_server import RPC_DRIVEN_FLAGS, EmbeddedServer
from modelserver.conftest import wait_state
from modelserver.inference_requests import CLASSIFY, REGRESS, classification, example, multi, regression
from modelserver.wire import Wire, model
from tfs_deploy.savedmodel.requests import WARMUP_PATH
from tfs_deploy.savedmodel.tfrecord import encode
from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages

pytestmark = pytest.mark.tensorflow

ONE = example(x=1.0)
NOT_CLASSIFY = (
    "INVALID_ARGUMENT",
    "Expected classification signature method_name to be tensorflow/serving/classify. Was: tensorflow/serving/predict",
)


@pytest.fixture(scope="module")
def wire(shared_models, tmp_path_factory):
    base = tmp_path_factory.mktemp("method") / "warm"
    shutil.copytree(shared_models / "half_plus_two_tf2_cpu" / "00000123", base / "2")
    log = messages.PredictionLog()
    log.classify_log.request.CopyFrom(classification("any", "classify_x_to_y", ONE))
    (base / "2" / WARMUP_PATH).parent.mkdir(exist_ok=True)
    (base / "2" / WARMUP_PATH).write_bytes(b"".join(encode([log.SerializeToString()])))
    (base / "1").symlink_to(shared_models / "half_plus_two_tf2_cpu" / "00000123")
    with EmbeddedServer((*RPC_DRIVEN_FLAGS, "--enable_signature_method_name_check")) as server:
        connected = Wire(server.target)
        one = model("tf1", shared_models / "half_plus_two_2_versions")
        connected.reload(one, model("tf2", base, 1))
        connected.reload(one, model("tf2", base, 1, 2))
        yield connected
        connected.close()


def test_predict_takes_every_method(wire):
    assert list(wire.predict("tf2", version=1, inputs={"x": np.float32([2])}).outputs["y"].float_val) == [3.0]
    reply = wire.predict("tf1", signature="classify_x2_to_y3", inputs={"inputs": np.float32([[2]])})
    assert list(reply.outputs["scores"].float_val) == [4.0]


def test_classify_and_regress_take_their_own(wire):
    assert wire.error(rpc.CLASSIFY, classification("tf2", "classify_x_to_y", ONE)) == NOT_CLASSIFY
    code, text = wire.error(rpc.REGRESS, regression("tf1", "classify_x_to_y", ONE))
    assert (code, text) == (
        "INVALID_ARGUMENT",
        "Expected regression signature method_name to be tensorflow/serving/regress. Was: tensorflow/serving/classify",
    )
    assert wire.error(rpc.MULTI_INFERENCE, multi([("tf2", "classify_x_to_y", CLASSIFY)], ONE)) == NOT_CLASSIFY
    answered = wire.call(rpc.MULTI_INFERENCE, multi([("tf1", "regress_x_to_y", REGRESS)], ONE))
    assert answered.results[0].regression_result.regressions[0].value == 2.5


def test_warmup_is_checked_too(wire):
    assert wait_state(wire, "tf2", 2, "END") == (3, NOT_CLASSIFY[1])
