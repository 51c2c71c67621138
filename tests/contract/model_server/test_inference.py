"""Classify, Regress and MultiInference on tf.Examples: contract 7.3 and 7.4."""

from __future__ import annotations

import pytest

from modelserver.wire import Wire, model, predict_request, wait_state
from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages

pytestmark = pytest.mark.tensorflow

CLASSIFY_METHOD, REGRESS_METHOD = "tensorflow/serving/classify", "tensorflow/serving/regress"
HALF_PLUS_TWO = "half_plus_two_2_versions"


@pytest.fixture(scope="module")
def loaded(server, models, other_models, model_root):
    base = model_root / "inference"
    base.mkdir()
    for name in ("examples", "several"):
        (base / name).mkdir()
        (base / name / "1").symlink_to(models / name)
    wire = Wire(server.target)
    two = model("two", other_models / HALF_PLUS_TWO, 123, 124)
    wire.reload(
        two,
        model("tf2", other_models / "half_plus_two_tf2_cpu"),
        model("examples", base / "examples"),
        model("several", base / "several"),
    )
    for version in (123, 124):
        wait_state(wire, "two", version, "AVAILABLE")
    two.version_labels["stable"] = 123
    wire.reload(
        two,
        model("tf2", other_models / "half_plus_two_tf2_cpu"),
        model("examples", base / "examples"),
        model("several", base / "several"),
    )
    yield wire
    wire.reload()
    wire.close()


def example(**features):
    made = messages.Example()
    for feature, value in features.items():
        made.features.feature[feature].float_list.value.append(value)
    return made


def fill(request, name, signature, values, **spec):
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if "version" in spec:
        request.model_spec.version.value = spec["version"]
    if "label" in spec:
        request.model_spec.version_label = spec["label"]
    if values is not None:
        request.input.example_list.examples.extend(example(x=value) for value in values)
    return request


def classification(name, signature, values=(1.0,), **spec):
    return fill(messages.ClassificationRequest(), name, signature, values, **spec)


def regression(name, signature, values=(1.0,), **spec):
    return fill(messages.RegressionRequest(), name, signature, values, **spec)


def multi(*tasks, values=(2.0,)):
    request = messages.MultiInferenceRequest()
    for name, signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = name, signature
    request.input.example_list.examples.extend(example(x=value) for value in values)
    return request


@pytest.mark.parametrize(
    ("name", "signature", "expected"),
    [
        ("two", "regress_x_to_y", [2.5, 3.0]),
        ("two", "regress_x_to_y2", [3.5, 4.0]),
        ("tf2", "regress_x_to_y", [2.5, 3.0]),
        ("examples", "regress", [2.0, 4.0]),
        ("examples", "flat_regress", [3.0, 6.0]),
    ],
)
def test_regress(loaded, name, signature, expected):
    reply = loaded.call(rpc.REGRESS, regression(name, signature, (1, 2)))
    assert [row.value for row in reply.result.regressions] == expected


def test_the_reply_names_the_version_and_the_signature(loaded):
    for spec, version in (({}, 124), ({"version": 123}, 123), ({"label": "stable"}, 123)):
        for method, request in (
            (rpc.REGRESS, regression("two", "regress_x_to_y", **spec)),
            (rpc.CLASSIFY, classification("two", "classify_x_to_y", **spec)),
        ):
            told = loaded.call(method, request).model_spec
            assert (told.name, told.version.value) == ("two", version)
            assert told.WhichOneof("version_choice") == "version"
            assert told.signature_name == request.model_spec.signature_name


def test_classify(loaded):
    reply = loaded.call(rpc.CLASSIFY, classification("examples", "classify", (0.25, 1)))
    rows = [[(entry.label, entry.score) for entry in row.classes] for row in reply.result.classifications]
    assert rows == [[("low", 0.75), ("high", 0.25)], [("low", 0.0), ("high", 1.0)]]
    only = loaded.call(rpc.CLASSIFY, classification("examples", "classes_only")).result.classifications
    assert [(entry.label, entry.score) for entry in only[0].classes] == [("only", 0.0)]
    scores = loaded.call(rpc.CLASSIFY, classification("two", "classify_x_to_y", (1, 2))).result.classifications
    assert [[(entry.label, entry.score) for entry in row.classes] for row in scores] == [[("", 2.5)], [("", 3.0)]]


def test_a_context_stands_before_each_example(loaded):
    request = regression("two", "regress_x_to_y", None)
    request.input.example_list_with_context.context.CopyFrom(example(x=4))
    request.input.example_list_with_context.examples.extend([messages.Example(), example(x=6)])
    reply = loaded.call(rpc.REGRESS, request)
    assert [row.value for row in reply.result.regressions] == [4.0, 5.0]


ERRORS = (
    (rpc.CLASSIFY, messages.ClassificationRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    (rpc.REGRESS, messages.RegressionRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    (rpc.CLASSIFY, classification("", "a"), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    (rpc.REGRESS, regression("nope", "a"), "NOT_FOUND", "Servable not found for request: Latest(nope)"),
    (rpc.REGRESS, regression("two", "a", version=9), "NOT_FOUND", "Servable not found for request: Specific(two, 9)"),
    (rpc.REGRESS, regression("two", "a", label="z"), "INVALID_ARGUMENT", "Unrecognized servable version label: z"),
    (rpc.CLASSIFY, classification("two", "zz"), "INVALID_ARGUMENT", "No signature was found with the name: zz"),
    (rpc.REGRESS, regression("two", "zz"), "INVALID_ARGUMENT", "No signature was found with the name: zz"),
    (rpc.CLASSIFY, classification("two", "classify_x_to_y", None), "INVALID_ARGUMENT", "Input is empty."),
    (rpc.REGRESS, regression("two", "regress_x_to_y", ()), "INVALID_ARGUMENT", "Input is empty."),
)  # fmt: skip


@pytest.mark.parametrize(("method", "request_", "code", "text"), ERRORS)
def test_errors(loaded, method, request_, code, text):
    assert loaded.error(method, request_) == (code, text)


@pytest.mark.parametrize(
    ("method", "request_", "text"),
    [
        (rpc.CLASSIFY, classification("two", "serving_default"), "No classification inputs found in SignatureDef: "),
        (rpc.REGRESS, regression("two", ""), "No regression inputs found in SignatureDef: "),
        (rpc.REGRESS, regression("examples", "two_inputs"), "Expected one input Tensor."),
        (rpc.REGRESS, regression("examples", "classify"), "Expected one output Tensor."),
        (rpc.REGRESS, regression("examples", "other_output"), "No regression outputs found in SignatureDef: "),
        (
            rpc.CLASSIFY,
            classification("examples", "other_output"),
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            "Signature was: ",
        ),
        (
            rpc.REGRESS,
            regression("examples", "int_outputs"),
            "Expected output Tensor of DT_FLOAT.  Got: DT_INT64",
        ),
        (
            rpc.CLASSIFY,
            classification("examples", "rank_1_scores"),
            "Expected Tensor shape: [batch_size num_classes] but got [1]",
        ),
        (
            rpc.CLASSIFY,
            classification("examples", "one_row", (1, 2)),
            "Expected scores output batch size of 2. Got: 1",
        ),
        (
            rpc.REGRESS,
            regression("examples", "one_value", (1, 2)),
            "Input batch size did not match output batch size: 2 vs. 1",
        ),
        # A string vector goes into a float input.
        (
            rpc.REGRESS,
            regression("two", "regress_x2_to_y3"),
            "Expects arg[0] to be float but string is provided",
        ),
    ],
)
def test_forms_that_are_refused(loaded, method, request_, text):
    code, found = loaded.error(method, request_)
    assert code == "INVALID_ARGUMENT"
    assert found.startswith(text)


def test_a_signature_in_a_message_looks_as_in_cpp(loaded):
    text = """No classification inputs found in SignatureDef: inputs {
  key: "x"
  value {
    name: "serving_default_x:0"
    dtype: DT_FLOAT
    tensor_shape {
      dim {
        size: 1
      }
    }
  }
}
outputs {
  key: "y"
  value {
    name: "StatefulPartitionedCall_5:0"
    dtype: DT_FLOAT
    tensor_shape {
      dim {
        size: 1
      }
    }
  }
}
method_name: "tensorflow/serving/predict"
defaults {
  key: "x"
  value {
    dtype: DT_FLOAT
    tensor_shape {
      dim {
        size: 1
      }
    }
    float_val: 0
  }
}
"""
    assert loaded.error(rpc.CLASSIFY, classification("tf2", "")) == ("INVALID_ARGUMENT", text)


def test_examples_of_another_kind(loaded):
    request = classification("two", "classify_x_to_y", None)
    request.input.example_list.examples.add().features.feature["x"].bytes_list.value.append(b"text")
    code, text = loaded.error(rpc.CLASSIFY, request)
    assert code == "INVALID_ARGUMENT"
    assert "Data types don't match. Data type: string but expected type: float" in text


def test_labels_that_are_not_utf8_go_over_the_wire(loaded):
    ask = loaded.channel.unary_unary(rpc.CLASSIFY.path, request_serializer=lambda message: message.SerializeToString())
    data = ask(classification("several", "echo"), timeout=60, wait_for_ready=True)
    assert b"\n\x01\xff" in data


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        (rpc.REGRESS, regression("several", "slow")),
        (rpc.MULTI_INFERENCE, multi(("several", "slow", REGRESS_METHOD))),
    ],
    ids=["Regress", "MultiInference"],
)
def test_deadline_ends_the_run(loaded, method, request_):
    assert loaded.error(method, request_, timeout=0.5)[0] == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("timeout", [None, 1e9], ids=["no deadline", "in 30 years"])
@pytest.mark.parametrize(
    ("method", "request_"),
    [
        (rpc.PREDICT, predict_request("two")),
        (rpc.CLASSIFY, classification("two", "classify_x_to_y")),
        (rpc.REGRESS, regression("two", "regress_x_to_y")),
        (rpc.MULTI_INFERENCE, multi(("two", "regress_x_to_y", REGRESS_METHOD))),
    ],
    ids=["Predict", "Classify", "Regress", "MultiInference"],
)
def test_a_caller_without_a_deadline_is_answered(loaded, method, request_, timeout):
    assert loaded.call(method, request_, timeout=timeout).ByteSize()


@pytest.mark.parametrize(("name", "version"), [("two", 124), ("tf2", 123)])
def test_multi_inference(loaded, name, version):
    # In a TensorFlow 2 export each signature has an input tensor of its own; both get the examples.
    request = multi((name, "regress_x_to_y", REGRESS_METHOD), (name, "classify_x_to_y", CLASSIFY_METHOD))
    regress, classify = loaded.call(rpc.MULTI_INFERENCE, request).results
    assert [row.value for row in regress.regression_result.regressions] == [3.0]
    assert [row.classes[0].score for row in classify.classification_result.classifications] == [3.0]
    assert (regress.model_spec.name, regress.model_spec.version.value) == (name, version)
    assert [part.model_spec.signature_name for part in (regress, classify)] == ["regress_x_to_y", "classify_x_to_y"]


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (multi(), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (multi(("nope", "s", REGRESS_METHOD)), "NOT_FOUND", "Servable not found for request: Latest(nope)"),
        (multi(*[(name, "regress_x_to_y", REGRESS_METHOD) for name in ("two", "tf2")]), "INVALID_ARGUMENT",
         "All ModelSpecs in a MultiInferenceRequest must access the same model name."),
        (multi(*[(name, "regress_x_to_y", REGRESS_METHOD) for name in ("two", "")]), "INVALID_ARGUMENT",
         "Found ModelSpec with an empty model name."),
        (multi(*[("two", "regress_x_to_y", REGRESS_METHOD)] * 2), "INVALID_ARGUMENT",
         "Duplicate evaluation of signature: regress_x_to_y"),
        # The one input tensor takes strings, the other floats.
        (multi(*[("two", name, REGRESS_METHOD) for name in ("regress_x_to_y", "regress_x2_to_y3")]), "INVALID_ARGUMENT",
         "Expects arg[1] to be float but string is provided"),
        (multi(("two", "zz", REGRESS_METHOD)), "INVALID_ARGUMENT", "Requested signature not found in model graph: zz"),
        (multi(("two", "serving_default", "tensorflow/serving/predict")), "UNIMPLEMENTED",
         "Unsupported signature method_name: tensorflow/serving/predict"),
        (multi(("two", "regress_x_to_y", REGRESS_METHOD), values=()), "INVALID_ARGUMENT", "Input is empty."),
    ],
)  # fmt: skip
def test_multi_inference_errors(loaded, request_, code, text):
    assert loaded.error(rpc.MULTI_INFERENCE, request_) == (code, text)
