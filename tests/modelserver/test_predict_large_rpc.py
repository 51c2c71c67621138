"""Predict with requests that are large enough to be read without protobuf: the same answers and errors."""

from __future__ import annotations

import numpy as np
import pytest

from modelserver.wire import Wire, model, predict_request
from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages, tensors

pytestmark = pytest.mark.tensorflow

X = np.arange(5000, dtype=np.float32)


@pytest.fixture(scope="module")
def loaded(server, models, tmp_path_factory):
    base = tmp_path_factory.mktemp("large")
    for name, source in {"m/3": "scale3", "s/1": "several"}.items():
        (base / name).parent.mkdir()
        (base / name).symlink_to(models / source)
    wire = Wire(server.target)
    wire.reload(model("m", base / "m", 3), model("s", base / "s"))
    yield wire
    wire.reload()
    wire.close()


def listed(array):
    proto = tensors.to_proto(array)
    proto.ClearField("tensor_content")
    proto.float_val.extend(array)
    return proto


@pytest.mark.parametrize("x", [X, listed(X)], ids=["content", "list"])
def test_answers(loaded, x):
    reply = loaded.predict("m", inputs={"x": x}, outputs=("y",))
    assert (tensors.to_array(reply.outputs["y"]) == X * 3).all()
    assert set(reply.outputs) == {"y"}


@pytest.mark.parametrize("padding", range(4))
def test_any_alignment(loaded, padding):
    a, b = np.arange(3000, dtype=np.float32), np.arange(3000, dtype=np.int32)
    request = predict_request("s", signature="add", inputs={"a": a, "b": b})
    # A field that ModelSpec does not know moves what follows.
    request.model_spec.MergeFromString(b"\xfa\x06" + bytes([padding]) + b"x" * padding)
    assert (tensors.to_array(loaded.call(rpc.PREDICT, request).outputs["sum"]) == a + b).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"inputs": {"x": X.astype(np.int32)}}, "Expects arg[0] to be float but int32 is provided"),
        (
            {"inputs": {"x": messages.TensorProto(dtype=1, tensor_content=X.tobytes())}},
            "tensor parsing error: x",
        ),
        (
            {"inputs": {"x": messages.TensorProto(dtype=20, tensor_content=X.tobytes())}},
            "Expects arg[0] to be float but resource is provided",
        ),
        (
            {"inputs": {"x": X, "q": X}},
            "input size does not match signature: 2!=1 len({q,x}) != len({x}). Sent extra: {q}. "
            "Missing but required: {}.",
        ),
        ({"inputs": {"x": X}, "outputs": ("y", "y")}, "duplicate output tensor alias: y"),
    ],
)
def test_errors(loaded, options, text):
    assert loaded.predict_error("m", **options) == ("INVALID_ARGUMENT", text)


def test_missing_spec(loaded):
    request = predict_request("m", inputs={"x": X})
    request.ClearField("model_spec")
    assert loaded.error(rpc.PREDICT, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")


def test_bytes_that_are_no_request(loaded):
    call = loaded.channel.unary_unary(rpc.PREDICT.path)
    error = call.future(b"\x0a\xff" * 4000, timeout=20).exception()
    assert (error.code().name, error.details()) == ("INTERNAL", "")
