"""Predict: the codes and messages of contract 20.1, the tensors of 20.11."""

from __future__ import annotations

import grpc
import ml_dtypes
import numpy as np
import pytest

from modelserver.wire import Wire, model, predict_request
from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages, tensors

pytestmark = pytest.mark.tensorflow

T = messages.TensorProto


@pytest.fixture(scope="module")
def loaded(server, models, model_root):
    base = model_root / "predict"
    base.mkdir()
    for name, source in {"m/3": "scale3", "s/1": "several", "g/5": "graph5", "f/1": "shapes"}.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).symlink_to(models / source)
    wire = Wire(server.target)
    wire.models = model("m", base / "m", 3, labels={"stable": 3}), *(model(name, base / name) for name in "sgf")
    wire.reload(*wire.models)
    yield wire
    wire.reload()
    wire.close()


def test_reply_has_resolved_version_default_signature_and_typed_lists(loaded):
    reply = loaded.predict("m", x=[1, 2], label="stable")
    assert reply.model_spec.version.value == 3
    assert (reply.model_spec.name, reply.model_spec.signature_name) == ("m", "serving_default")
    assert reply.model_spec.WhichOneof("version_choice") == "version"
    assert list(reply.outputs["y"].float_val) == [3.0, 6.0]
    assert not reply.outputs["y"].tensor_content
    assert set(reply.outputs) == {"y", "sum"}


def test_tensorflow_1_graph(loaded):
    assert loaded.answer("g") == 5.0


def test_output_filter(loaded):
    assert set(loaded.predict("m", outputs=("sum",)).outputs) == {"sum"}


def test_empty_batch(loaded):
    assert tensors.to_array(loaded.predict("m", x=[]).outputs["y"]).shape == (0,)


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ({"model": ""}, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        ({"model": "nope"}, "NOT_FOUND", "Servable not found for request: Latest(nope)"),
        ({"version": 9}, "NOT_FOUND", "Servable not found for request: Specific(m, 9)"),
        ({"version": 0}, "NOT_FOUND", "Servable not found for request: Specific(m, 0)"),
        ({"label": "zz"}, "INVALID_ARGUMENT", "Unrecognized servable version label: zz"),
        ({"label": ""}, "INVALID_ARGUMENT", "Unrecognized servable version label: "),
        ({"model": "nope", "label": "zz"}, "INVALID_ARGUMENT", "Unrecognized servable version label: zz"),
        ({"signature": "zz"}, "FAILED_PRECONDITION", 'Serving signature key "zz" not found.'),
        (
            {"inputs": {"q": np.float32([1])}},
            "INVALID_ARGUMENT",
            "Signature input alias: x(feed name: serving_default_x:0) not found in request and no default value "
            "provided. Inputs expected to be in the request {q}, or default input alias set: ",
        ),
        (
            {"inputs": {"x": np.float32([1]), "q": np.float32([1])}},
            "INVALID_ARGUMENT",
            "input size does not match signature: 2!=1 len({q,x}) != len({x}). Sent extra: {q}. "
            "Missing but required: {}.",
        ),
        (
            {"inputs": {}},
            "INVALID_ARGUMENT",
            "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
        ),
        ({"inputs": {"x": np.int32([1])}}, "INVALID_ARGUMENT", "Expects arg[0] to be float but int32 is provided"),
        ({"inputs": {"x": np.float64([1])}}, "INVALID_ARGUMENT", "Expects arg[0] to be float but double is provided"),
        ({"inputs": {"x": np.array([b"a"])}}, "INVALID_ARGUMENT", "Expects arg[0] to be float but string is provided"),
        ({"inputs": {"x": T(dtype=21)}}, "INVALID_ARGUMENT", "Expects arg[0] to be float but variant is provided"),
        ({"inputs": {"x": T(dtype=0)}}, "INVALID_ARGUMENT", "tensor parsing error: x"),
        ({"inputs": {"x": T(dtype=1, tensor_content=b"abc")}}, "INVALID_ARGUMENT", "tensor parsing error: x"),
        (
            {"inputs": {"x": T(dtype=1, tensor_shape={"dim": [{"size": 10**12}]})}},
            "INVALID_ARGUMENT",
            "tensor parsing error: x",
        ),
        (
            {"outputs": ("zz",)},
            "INVALID_ARGUMENT",
            "output tensor alias not found in signature: zz Outputs expected to be in the set {sum,y}.",
        ),
        ({"outputs": ("y", "y")}, "INVALID_ARGUMENT", "duplicate output tensor alias: y"),
    ],
)
def test_errors(loaded, options, code, text):
    assert loaded.predict_error(**{"model": "m", **options}) == (code, text)


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        (rpc.PREDICT, messages.PredictRequest()),
        (rpc.CLASSIFY, messages.ClassificationRequest()),
        (rpc.REGRESS, messages.RegressionRequest()),
        (rpc.GET_MODEL_METADATA, messages.GetModelMetadataRequest(metadata_field=["signature_def"])),
        (rpc.GET_MODEL_STATUS, messages.GetModelStatusRequest()),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_missing_spec(loaded, method, request_):
    assert loaded.error(method, request_) == ("INVALID_ARGUMENT", "Missing ModelSpec")


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (T(dtype=1, tensor_shape={"dim": [{"size": 3}]}, float_val=[1, 2]), [3, 6, 6]),
        (T(dtype=1, tensor_shape={"dim": [{"size": 2}]}), [0, 0]),
        (T(dtype=1, tensor_shape={"dim": [{"size": 1}]}, float_val=[1, 2]), [3]),
        (T(dtype=1, tensor_shape={"dim": [{"size": 1}]}, int_val=[7]), [0]),
        (T(dtype=1, tensor_shape={"dim": [{"size": 1}]}, float_val=[9], tensor_content=b"\0\0\x80?"), [3]),
    ],
)
def test_incomplete_value_lists(loaded, proto, expected):
    assert list(loaded.predict("m", inputs={"x": proto}).outputs["y"].float_val) == expected


def test_dtype_error_counts_arguments_by_sorted_tensor_name(loaded):
    inputs = {"a": np.float32([1]), "b": np.float32([1])}
    assert loaded.predict_error("s", signature="add", inputs=inputs) == (
        "INVALID_ARGUMENT",
        "Expects arg[1] to be int32 but float is provided",
    )


def test_shape_that_breaks_a_kernel(loaded):
    inputs = {"a": np.float32([1, 2, 3]), "b": np.int32([1, 2])}
    code, text = loaded.predict_error("s", signature="add", inputs=inputs)
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("Incompatible shapes: ")
    assert "{{node" in text


def test_shape_is_not_compared_with_the_signature(loaded):
    reply = loaded.predict("m", inputs={"x": np.float32([[1, 2], [3, 4]])})
    assert tensors.to_array(reply.outputs["y"]).tolist() == [[3, 6], [9, 12]]


def test_wrong_rank_for_a_convolution_kills_nothing(loaded, server):
    code, text = loaded.predict_error("s", signature="conv", inputs={"images": np.zeros((1, 7), np.float32)})
    assert code == "INVALID_ARGUMENT"
    assert "convolution input must be 4-dimensional: [1,7]" in text
    assert server.process.poll() is None
    fine = loaded.predict("s", signature="conv", inputs={"images": np.zeros((1, 8, 8, 1), np.float32)})
    assert tensors.to_array(fine.outputs["out"]).shape == (1, 2)


def test_strings_and_a_lookup_table_from_an_asset(loaded):
    words = np.array([b"one", b"\xff\0", b"zwei"], dtype=object)
    reply = loaded.predict("s", signature="look_up", inputs={"word": words})
    assert list(reply.outputs["id"].int64_val) == [1, -1, -1]
    assert list(reply.outputs["word"].string_val) == list(words)
    assert tensors.to_array(reply.outputs["first"]).item() == b"one"


def test_every_dtype_comes_back_in_its_typed_list(loaded):
    reply = loaded.predict("s", signature="dtypes", inputs={"x": np.float32([0, 1, 2])})
    fields = {
        "float16": "half_val", "bfloat16": "half_val", "float64": "double_val", "complex64": "scomplex_val",
        "complex128": "dcomplex_val", "bool": "bool_val", "int64": "int64_val", "uint32": "uint32_val",
        "uint64": "uint64_val",
    }  # fmt: skip
    for alias, proto in reply.outputs.items():
        used = [field.name for field, _ in proto.ListFields() if field.name.endswith(("_val", "_content"))]
        assert used == [fields.get(alias, "int_val")], alias
        expected = ml_dtypes.bfloat16 if alias == "bfloat16" else np.dtype(alias)
        array = tensors.to_array(proto)
        assert array.dtype == expected
        assert array.astype(np.complex128).tolist() == ([0, 1, 1] if alias == "bool" else [0, 1, 2])


def test_deadline_ends_the_run(loaded):
    request = predict_request("s", signature="spin", inputs={"n": np.int32(2_000_000_000)})
    assert loaded.error(rpc.PREDICT, request, timeout=0.5)[0] == "DEADLINE_EXCEEDED"
    assert loaded.answer("m") == 3.0


def test_an_error_that_quotes_bytes(loaded, other_models):
    # Python's gRPC shows a message that is not UTF-8 as Latin-1.
    two = model("quoting", other_models / "half_plus_two_2_versions")
    loaded.reload(*loaded.models, two)
    request = {"signature": "classify_x_to_y", "inputs": {"inputs": np.array([b"\xff\xfe"], object)}}
    code, text = loaded.predict_error("quoting", **request)
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("Could not parse example input, value: '\xff\xfe'")


def test_a_signature_without_tensors(loaded):
    code, text = loaded.predict_error("m", signature="__saved_model_init_op", inputs={})
    assert (code, text) == ("OUT_OF_RANGE", "Node 'NoOp' (type: 'NoOp', num of outputs: 0) does not have output 0")


@pytest.mark.parametrize("method", [rpc.PREDICT, rpc.REGRESS, rpc.GET_MODEL_STATUS], ids=lambda method: method.name)
def test_bytes_that_are_no_request(loaded, method):
    with pytest.raises(grpc.RpcError) as failed:
        loaded.channel.unary_unary(method.path)(b"\xff\xff", timeout=60)
    assert failed.value.code().name == "INTERNAL"


def test_methods_that_nobody_has(loaded):
    for path in (
        "/tensorflow.serving.PredictionService/PredictAll",
        "/tensorflow.serving.SessionService/SessionRun",
        "/grpc.health.v1.Health/Nothing",
    ):
        with pytest.raises(grpc.RpcError) as failed:
            loaded.channel.unary_unary(path)(b"", timeout=60)
        assert (failed.value.code().name, failed.value.details()) == ("UNIMPLEMENTED", "")


def test_a_cut_message_may_end_within_a_character(loaded):
    text = f"Servable not found for request: Latest({'ü' * 2000}".encode()[:1024] + b"...TRUNCATED"
    assert loaded.predict_error("ü" * 2000) == ("NOT_FOUND", text.decode("latin-1"))


def test_long_messages_are_cut_at_1024_characters(loaded):
    name = "n" * 2000
    assert loaded.predict_error(name) == (
        "NOT_FOUND",
        f"Servable not found for request: Latest({name}"[:1024] + "...TRUNCATED",
    )


def test_models_that_this_project_did_not_write(loaded, other_models):
    names = ("half_plus_two_2_versions", "half_plus_two_tf2_cpu", "half_plus_three")
    others = [model(name, other_models / name) for name in names]
    loaded.reload(*loaded.models, *others)
    two, tf2, three = (loaded.predict(name, inputs={"x": np.float32([4])}) for name in names)
    assert [list(reply.outputs["y"].float_val) for reply in (two, tf2, three)] == [[4.0], [4.0], [5.0]]
    assert (two.model_spec.version.value, tf2.model_spec.version.value) == (124, 123)
    # A signature with a default: an input may be left out, a foreign one may not be sent instead.
    assert list(loaded.predict(names[1], inputs={}).outputs["y"].float_val) == [2.0]
    assert loaded.predict_error(names[1], inputs={"q": np.float32([4])}) == (
        "INVALID_ARGUMENT",
        "Inputs contains invalid name. Used request inputs: , request input: q",
    )


def test_shapes_that_the_signature_does_not_name_are_answered(loaded):
    ones = np.ones((1, 2), np.float32)
    assert list(loaded.predict("f", signature="rows", inputs={"x": ones}).outputs["n"].float_val) == [2.0]
    assert list(loaded.predict("f", signature="scalar", inputs={"x": ones}).outputs["y"].float_val) == [2.0, 2.0]
    scalar = loaded.predict("f", signature="scalar", inputs={"x": np.float32(1)}).outputs["y"]
    assert (list(scalar.float_val), len(scalar.tensor_shape.dim)) == ([2.0], 0)


def test_incomplete_lists_of_strings(loaded):
    three = {"dim": [{"size": 3}]}
    for given, expected in (([b"a"], [b"a"] * 3), ([], [b""] * 3)):
        proto = T(dtype=7, tensor_shape=three, string_val=given)
        reply = loaded.predict("f", signature="echo", inputs={"word": proto})
        assert list(reply.outputs["word_bytes"].string_val) == expected


def test_an_unknown_rank_is_accepted(loaded):
    proto = T(dtype=1, tensor_shape={"unknown_rank": True}, float_val=[2])
    reply = loaded.predict("f", signature="scalar", inputs={"x": proto})
    assert list(reply.outputs["y"].float_val) == [3.0]


def test_half_precision_goes_in_and_out(loaded):
    reply = loaded.predict("f", signature="half", inputs={"x": np.float16([1.5, -2])})
    assert tensors.to_array(reply.outputs["y"]).tolist() == [1.5, -2.0]
