"""Classify, Regress and MultiInference on versions whose session gives what the test wants: structure and results."""

from __future__ import annotations

import numpy as np
import pytest

from modelserver.inference_requests import CLASSIFY, REGRESS, classification, example, multi, regression
from tfs_deploy.modelserver.graph.servable import Servable
from tfs_deploy.modelserver.inference.classify_regress import encode_response, run_classify, run_regress
from tfs_deploy.modelserver.inference.multi_inference import encode_multi_inference, run_multi_inference
from tfs_deploy.modelserver.status import Code, StatusError
from tfs_deploy.serving.codec import messages

TWO = example(x=1.0), example(x=2.0)
LABELS = np.array([[b"a", b"b"], [b"c", b""]], object)
SCORES = np.float32([[1, 2], [0, -0.0]])


class FixedSession:
    """Gives the arrays it was made with, by tensor name; remembers each run."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.runs = []

    def run(self, feeds, fetches, targets=(), *, timeout_ms=None):
        self.runs.append((dict(feeds), list(fetches), timeout_ms))
        return [self.arrays[name] for name in fetches]

    def close(self):
        pass


def servable(*signatures, **arrays):
    """Return version 7 with (name, inputs, outputs) signatures; an alias's tensor is its own name."""
    defs = messages.SignatureDefMap()
    for key, inputs, outputs, *method in signatures:
        signature = defs.signature_def[key]
        signature.method_name = method[0] if method else "tensorflow/serving/predict"
        for side, aliases in ((signature.inputs, inputs), (signature.outputs, outputs)):
            for alias in aliases:
                side[alias].name = alias
    return Servable("m", 7, defs, FixedSession(arrays))


def classify(outputs, **arrays):
    return run_classify(servable(("s", ["inputs"], outputs), **arrays), classification("m", "s", *TWO))


def regress(output):
    return run_regress(servable(("s", ["inputs"], ["outputs"]), outputs=output), regression("m", "s", *TWO))


def failure(run, *arguments, **options):
    with pytest.raises(StatusError) as caught:
        run(*arguments, **options)
    return caught.value.code, caught.value.message


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (["classes", "scores"], [[("a", 1), ("b", 2)], [("c", 0), ("", 0)]]),
        (["classes"], [[("a", 0), ("b", 0)], [("c", 0), ("", 0)]]),
        (["scores"], [[("", 1), ("", 2)], [("", 0), ("", 0)]]),
        (["scores", "other"], [[("", 1), ("", 2)], [("", 0), ("", 0)]]),
    ],
)
def test_classes_scores_or_both(outputs, expected):
    reply = encode_response(classify(outputs, classes=LABELS, scores=SCORES))
    parsed = messages.ClassificationResponse.FromString(reply)
    assert [[(c.label, c.score) for c in row.classes] for row in parsed.result.classifications] == expected
    assert (parsed.model_spec.name, parsed.model_spec.version.value) == ("m", 7)
    # Exactly what protobuf writes, negative zero included.
    assert len(reply) == len(parsed.SerializeToString())


@pytest.mark.parametrize("output", [np.float32([1, 0]), np.float32([[1], [0]])])
def test_one_number_per_example(output):
    parsed = messages.RegressionResponse.FromString(encode_response(regress(output)))
    assert [row.value for row in parsed.result.regressions] == [1, 0]
    assert parsed.model_spec.signature_name == "s"


@pytest.mark.parametrize(
    ("outputs", "arrays", "text"),
    [
        (["classes"], {"classes": LABELS[0]}, "Expected Tensor shape: [batch_size num_classes] but got [2]"),
        (["classes"], {"classes": b"scalar"}, "Expected Tensor shape: [batch_size num_classes] but got []"),
        (["classes"], {"classes": SCORES}, "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
        (["classes"], {"classes": LABELS[:1]}, "Expected classes output batch size of 2. Got: 1"),
        (["scores"], {"scores": SCORES[None]}, "Expected Tensor shape: [batch_size num_classes] but got [1,2,2]"),
        (["scores"], {"scores": SCORES.astype(int)}, "Expected scores Tensor of DT_FLOAT. Got: DT_INT64"),
        (["scores"], {"scores": SCORES[:1]}, "Expected scores output batch size of 2. Got: 1"),
        (
            ["classes", "scores"],
            {"classes": LABELS, "scores": SCORES[:, :1]},
            "Tensors class and score should match in dim_size(1). Got 2 vs. 1",
        ),
    ],
)
def test_classifications_of_another_shape(outputs, arrays, text):
    assert failure(classify, outputs, **arrays) == (Code.INVALID_ARGUMENT, text)


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (
            np.float32([[1, 2], [3, 4]]),
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]",
        ),
        (np.float32(1), "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got []"),
        (np.float32([1]), "Input batch size did not match output batch size: 2 vs. 1"),
        (np.float64([1, 2]), "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE"),
    ],
)
def test_regressions_of_another_shape(output, text):
    assert failure(regress, output) == (Code.INVALID_ARGUMENT, text)


@pytest.mark.parametrize(
    ("run", "request_", "inputs", "outputs", "text"),
    [
        (run_classify, classification, ["inputs", "x"], ["scores"], "Expected one input Tensor."),
        (run_classify, classification, [], ["scores"], "Expected one input Tensor."),
        (run_classify, classification, ["inputs"], [], "Expected one or two output Tensors, found 0"),
        (run_classify, classification, ["inputs"], ["scores", "a", "b"], "Expected one or two output Tensors, found 3"),
        (run_classify, classification, ["x"], ["scores"], "No classification inputs found in SignatureDef: inputs {"),
        (
            run_classify,
            classification,
            ["inputs"],
            ["y"],
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            "Signature was: inputs {",
        ),
        (run_regress, regression, ["inputs", "x"], ["outputs"], "Expected one input Tensor."),
        (run_regress, regression, ["inputs"], ["outputs", "a"], "Expected one output Tensor."),
        (run_regress, regression, ["x"], ["outputs"], "No regression inputs found in SignatureDef: inputs {"),
        (run_regress, regression, ["inputs"], ["y"], "No regression outputs found in SignatureDef: inputs {"),
    ],
)
def test_signatures_of_another_structure(run, request_, inputs, outputs, text):
    # Without examples: the signature is looked at before them.
    code, message = failure(run, servable(("s", inputs, outputs)), request_("m", "s"))
    assert code is Code.INVALID_ARGUMENT
    assert message.startswith(text)


def test_method_name_is_checked_if_asked_for():
    version = servable(("s", ["inputs"], ["scores"]), ("r", ["inputs"], ["outputs"], CLASSIFY), scores=SCORES)
    assert failure(run_classify, version, classification("m", "s", *TWO), check_method_name=True) == (
        Code.INVALID_ARGUMENT,
        "Expected classification signature method_name to be tensorflow/serving/classify. "
        "Was: tensorflow/serving/predict",
    )
    assert failure(run_regress, version, regression("m", "r", *TWO), check_method_name=True) == (
        Code.INVALID_ARGUMENT,
        "Expected regression signature method_name to be tensorflow/serving/regress. Was: tensorflow/serving/classify",
    )
    assert failure(run_multi_inference, version, multi([("m", "s", CLASSIFY)], *TWO), check_method_name=True)[1] == (
        "Expected classification signature method_name to be tensorflow/serving/classify. "
        "Was: tensorflow/serving/predict"
    )


def test_context_goes_before_each_example():
    version = servable(("s", ["inputs"], ["outputs"]), outputs=np.float32([1, 2]))
    context = example(c=b"context")
    run_regress(version, regression("m", "s", *TWO, context=context), timeout_ms=5)
    ((feeds, fetches, timeout_ms),) = version.session.runs
    assert feeds["inputs"].tolist() == [context.SerializeToString() + one.SerializeToString() for one in TWO]
    assert (fetches, timeout_ms) == (["outputs"], 5)


def test_empty_list_with_context():
    version = servable(("s", ["inputs"], ["outputs"]))
    request = regression("m", "s", context=example(x=1.0))
    assert failure(run_regress, version, request) == (Code.INVALID_ARGUMENT, "Input is empty.")


def test_multi_inference_runs_the_session_once():
    version = servable(
        ("c", ["inputs"], ["classes", "scores"]),
        ("r", ["inputs"], ["outputs"]),
        classes=LABELS, scores=SCORES, outputs=np.float32([5, 6]),
    )  # fmt: skip
    answers = run_multi_inference(version, multi([("m", "r", REGRESS), ("m", "c", CLASSIFY)], *TWO), timeout_ms=9)
    ((_, fetches, timeout_ms),) = version.session.runs
    assert (fetches, timeout_ms) == (["classes", "outputs", "scores"], 9)
    parsed = messages.MultiInferenceResponse.FromString(encode_multi_inference(answers))
    assert [row.value for row in parsed.results[0].regression_result.regressions] == [5, 6]
    assert parsed.results[1].classification_result.classifications[0].classes[1].label == "b"
    assert [result.model_spec.signature_name for result in parsed.results] == ["r", "c"]


def test_multi_inference_task_without_a_model():
    version = servable(("r", ["inputs"], ["outputs"]))
    request = multi([("m", "r", REGRESS), ("", "r", REGRESS)], *TWO)
    assert failure(run_multi_inference, version, request) == (
        Code.INVALID_ARGUMENT,
        "Found ModelSpec with an empty model name.",
    )


def test_errors_of_the_runtime_keep_their_code():
    class Gone:
        def run(self, *arguments, **options):
            raise OSError(2, "No such file or directory", "asset")

    version = Servable("m", 7, servable(("s", ["inputs"], ["outputs"])).signature_defs, Gone())
    assert failure(run_regress, version, regression("m", "s", *TWO)) == (
        Code.NOT_FOUND,
        "asset; No such file or directory",
    )
