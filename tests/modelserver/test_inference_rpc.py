"""Classify, Regress and MultiInference on a running server (contract 7.3, 7.4, 20.11)."""

from __future__ import annotations

import pytest

from modelserver.inference_requests import CLASSIFY, REGRESS, classification, example, multi, regression
from modelserver.wire import Wire, eventually, model
from tfs_deploy.serving import messages, rpc

pytestmark = pytest.mark.tensorflow

HALF = ("half", "half_tf2")  # y = x / 2 + 2 from a tf.Example; y2 = x / 2 + 3


@pytest.fixture(scope="module")
def loaded(server, models, shared_models, tmp_path_factory):
    base = tmp_path_factory.mktemp("inference")
    (base / "1").symlink_to(models / "several")
    wire = Wire(server.target)
    wire.models = (
        model("several", base),
        model("half", shared_models / "half_plus_two_2_versions", 123, 124, labels={"stable": 123}),
        model("half_tf2", shared_models / "half_plus_two_tf2_cpu"),
    )
    wire.reload(*wire.models)
    yield wire
    wire.reload()
    wire.close()


def scores(reply):
    return [[(item.label, item.score) for item in row.classes] for row in reply.result.classifications]


def values(result):
    return [row.value for row in result.regressions]


@pytest.mark.parametrize("name", HALF)
def test_classify_and_regress_examples(loaded, name):
    examples = example(x=2.0), example(x=-4.0)
    classified = loaded.call(rpc.CLASSIFY, classification(name, "classify_x_to_y", *examples))
    assert scores(classified) == [[("", 3.0)], [("", 0.0)]]
    assert classified.model_spec.signature_name == "classify_x_to_y"
    regressed = loaded.call(rpc.REGRESS, regression(name, "regress_x_to_y2", *examples))
    assert values(regressed.result) == [4.0, 1.0]
    assert (regressed.model_spec.name, regressed.model_spec.WhichOneof("version_choice")) == (name, "version")


@pytest.mark.parametrize(("spec", "version"), [({}, 124), ({"version_label": "stable"}, 123)])
def test_reply_names_the_version_that_answered(loaded, spec, version):
    classified = loaded.call(rpc.CLASSIFY, classification("half", "classify_x_to_y", example(x=2.0), **spec))
    regressed = loaded.call(rpc.REGRESS, regression("half", "regress_x_to_y", example(x=2.0), **spec))
    assert (classified.model_spec.version.value, regressed.model_spec.version.value) == (version, version)


def test_context_supplies_what_an_example_leaves_out(loaded):
    request = regression("half", "regress_x_to_y", example(), example(x=6.0), context=example(x=2.0))
    assert values(loaded.call(rpc.REGRESS, request).result) == [3.0, 5.0]


def test_labels_that_are_not_utf8_go_over_the_wire(loaded):
    shown = example(b=b"word")
    call = loaded.channel.unary_unary(rpc.CLASSIFY.path, request_serializer=lambda message: message.SerializeToString())
    data = call(classification("several", "echo", shown), timeout=20, wait_for_ready=True)
    serialized = shown.SerializeToString()
    assert b"\n\x01\xff" in data
    fixed = messages.ClassificationResponse.FromString(data.replace(b"\n\x01\xff", b"\n\x01?"))
    assert scores(fixed) == [[(serialized.decode(), len(serialized)), ("?", 0.0)]]


@pytest.mark.parametrize("name", HALF)
def test_default_signature_is_a_predict_signature_of_another_structure(loaded, name):
    for method, request in (
        (rpc.CLASSIFY, classification(name, "", example(x=2.0))),
        (rpc.REGRESS, regression(name, "", example(x=2.0))),
    ):
        code, text = loaded.error(method, request)
        assert code == "INVALID_ARGUMENT"
        assert text.startswith(f"No {'classification' if method is rpc.CLASSIFY else 'regression'} inputs found in ")


@pytest.mark.parametrize(
    ("method", "request_", "code", "text"),
    [
        (rpc.CLASSIFY, classification("half", "classify_x_to_y"), "INVALID_ARGUMENT", "Input is empty."),
        (rpc.REGRESS, regression("half", "regress_x_to_y"), "INVALID_ARGUMENT", "Input is empty."),
        (
            rpc.CLASSIFY,
            classification("half", "zz", example(x=1.0)),
            "INVALID_ARGUMENT",
            "No signature was found with the name: zz",
        ),
        (
            rpc.REGRESS,
            regression("half", "zz", example(x=1.0)),
            "INVALID_ARGUMENT",
            "No signature was found with the name: zz",
        ),
        (
            rpc.CLASSIFY,
            classification("nope", "zz", example(x=1.0)),
            "NOT_FOUND",
            "Servable not found for request: Latest(nope)",
        ),
        (
            rpc.REGRESS,
            regression("half", "zz", version_label="zz"),
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: zz",
        ),
        (
            rpc.REGRESS,
            regression("half", "regress_x2_to_y3", example(x=1.0)),
            "INVALID_ARGUMENT",
            "Expects arg[0] to be float but string is provided",
        ),
        (rpc.MULTI_INFERENCE, multi([]), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (
            rpc.MULTI_INFERENCE,
            multi([("half", "regress_x_to_y", REGRESS), ("half", "regress_x_to_y", REGRESS)], example(x=1.0)),
            "INVALID_ARGUMENT",
            "Duplicate evaluation of signature: regress_x_to_y",
        ),
        (
            rpc.MULTI_INFERENCE,
            multi([("half", "regress_x_to_y", REGRESS), ("half_tf2", "regress_x_to_y", REGRESS)], example(x=1.0)),
            "INVALID_ARGUMENT",
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            rpc.MULTI_INFERENCE,
            multi([("half", "regress_x_to_y", REGRESS), ("half", "zz", REGRESS)], example(x=1.0)),
            "INVALID_ARGUMENT",
            "Requested signature not found in model graph: zz",
        ),
        (
            rpc.MULTI_INFERENCE,
            multi([("half", "serving_default", "tensorflow/serving/predict")], example(x=1.0)),
            "UNIMPLEMENTED",
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
        (
            rpc.MULTI_INFERENCE,
            multi([("half", "regress_x_to_y", REGRESS), ("half", "regress_x2_to_y3", REGRESS)], example(x=1.0)),
            "INVALID_ARGUMENT",
            "Input tensor must be the same for all Signatures.",
        ),
        (rpc.MULTI_INFERENCE, multi([("half", "regress_x_to_y", REGRESS)]), "INVALID_ARGUMENT", "Input is empty."),
    ],
)
def test_errors(loaded, method, request_, code, text):
    assert loaded.error(method, request_) == (code, text)


def test_input_that_is_no_example(loaded):
    code, text = loaded.error(rpc.REGRESS, regression("half", "regress_x_to_y", example(x=b"text")))
    assert code == "INVALID_ARGUMENT"
    assert "Data types don't match" in text


def test_multi_inference_answers_each_task_in_order(loaded):
    tasks = [("half", "regress_x_to_y2", REGRESS), ("half", "classify_x_to_y", CLASSIFY)]
    reply = loaded.call(rpc.MULTI_INFERENCE, multi(tasks, example(x=2.0), example(x=4.0)))
    first, second = reply.results
    assert values(first.regression_result) == [4.0, 5.0]
    assert [[item.score for item in row.classes] for row in second.classification_result.classifications] == [[3], [4]]
    assert [(result.model_spec.signature_name, result.model_spec.version.value) for result in reply.results] == [
        ("regress_x_to_y2", 124),
        ("classify_x_to_y", 124),
    ]


def test_deadline_ends_the_run(loaded, install):
    loaded.reload(*loaded.models, model("slow", install("several", 1).parent))
    assert loaded.error(rpc.REGRESS, regression("slow", "slow", example()), timeout=0.5)[0] == "DEADLINE_EXCEEDED"
    request = multi([("slow", "slow", REGRESS)], example())
    assert loaded.error(rpc.MULTI_INFERENCE, request, timeout=0.5)[0] == "DEADLINE_EXCEEDED"
    # An unload waits for every run: it would wait for ever if one were still going on.
    loaded.reload(*loaded.models)
    eventually(lambda: loaded.states("slow") == {1: "END"}, 10)
