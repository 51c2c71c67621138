"""Every gate, on a replica in memory: what passes, what fails with which numbers, what stays open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fakes import HALF_PLUS_TWO, FakeClient, FakeClock, FakeModelServer, FakeVersion, half_plus_two
from saved_model_files import write_saved_model
from tfs_deploy.errors import InvalidInput
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.requests import GoldenRequest, write_golden
from tfs_deploy.serving.config import ModelEntry, to_proto
from tfs_deploy.serving.signature import Signature, TensorSpec
from tfs_deploy.validation.config import gates_from
from tfs_deploy.validation.gate import LiveVersion
from tfs_deploy.validation.report import Check, ValidationReport, Verdict, overall
from tfs_deploy.validation.runner import prepare_gates, validate_replicas, worst_metrics

MODEL = "m"
X = np.array([0.0, 2.0], dtype=np.float32)
SCORES = Signature(
    inputs={"x": TensorSpec("DT_FLOAT", (None, 2), "x:0")},
    outputs={"scores": TensorSpec("DT_FLOAT", (None, 2), "s:0")},
    method_name="tensorflow/serving/predict",
)


def shifted(offset: float, field: str = "y"):
    return lambda inputs: {field: (inputs["x"] / 2 + offset).astype(np.float32)}


def identity(inputs):
    return {"scores": inputs["x"]}


def swapped(inputs):
    return {"scores": inputs["x"][:, ::-1].copy()}


class Case:
    """A version 2 beside a live version 1 on one server."""

    def __init__(self, folder, version: FakeVersion, live: FakeVersion | None = None, signatures=None) -> None:
        signatures = signatures or {"serving_default": HALF_PLUS_TWO}
        self.directory = write_saved_model(folder / "model", signatures=signatures)
        self.manifest = manifests.read(self.directory)
        self.server = FakeModelServer()
        base = "/models/m"
        self.server.put(base, 1, live or FakeVersion(signatures=signatures))
        self.server.put(base, 2, version)
        self.client = FakeClient(self.server)
        self.client.reload(to_proto([ModelEntry(MODEL, base, (1, 2), {})]), timeout=1.0)
        assert self.server.state(MODEL, 2) == "AVAILABLE"

    def report(self, gates: dict, client=None):
        wanted = gates_from(gates)
        prepared = prepare_gates(self.manifest, wanted, lambda path: (self.directory / path).read_bytes())
        client = client or self.client
        return validate_replicas(
            {client.target: client},
            MODEL,
            2,
            gates=prepared,
            live={client.target: LiveVersion(client, 1)},
            clock=FakeClock(),
        )


def check(report, gate: str) -> Check:
    return next(found for found in report.checks if found.gate == gate)


def golden_file(folder, expected) -> str:
    path = folder / "golden.tfrecord"
    write_golden(path, MODEL, [GoldenRequest("serving_default", {"x": X}, {"y": np.asarray(expected, np.float32)})])
    return str(path)


def labelled_file(folder, labels, name="x") -> str:
    path = folder / "labelled.npz"
    scores = np.eye(2, dtype=np.float32)[np.array([0, 1] * 5)]
    np.savez(path, **{name: scores, "labels": np.array(labels)})
    return str(path)


def test_a_good_version_passes_every_gate(tmp_path):
    report = Case(tmp_path, FakeVersion()).report({"golden": {"file": golden_file(tmp_path, [2.0, 3.0])}})
    assert report.verdict is Verdict.PASS
    assert [found.gate for found in report.checks] == ["signature", "prediction", "golden"]
    assert worst_metrics(report) == {"golden_error": 0.0}


def test_a_golden_answer_out_of_tolerance_fails_with_its_size(tmp_path):
    case = Case(tmp_path, FakeVersion(function=shifted(2.5)))
    found = check(case.report({"golden": {"file": golden_file(tmp_path, [2.0, 3.0])}}), "golden")
    assert found.verdict is Verdict.FAIL
    assert "0.5" in found.detail
    assert found.measured == {"golden_error": pytest.approx(0.5)}
    wide = case.report({"golden": {"file": golden_file(tmp_path, [2.0, 3.0]), "atol": 0.6}})
    assert wide.verdict is Verdict.PASS


def test_nan_is_not_a_number_close_to_anything(tmp_path):
    case = Case(tmp_path, FakeVersion(function=lambda inputs: {"y": np.full(2, np.nan, np.float32)}))
    assert case.report({"golden": {"file": golden_file(tmp_path, [2.0, 3.0])}}).verdict is Verdict.FAIL


def test_another_shape_fails(tmp_path):
    case = Case(tmp_path, FakeVersion(function=lambda inputs: {"y": np.zeros((2, 1), np.float32)}))
    found = check(case.report({"golden": {"file": golden_file(tmp_path, [2.0, 3.0])}}), "golden")
    assert found.verdict is Verdict.FAIL
    assert "shape" in found.detail


def test_a_signature_that_is_not_the_manifests_fails(tmp_path):
    other = replace(HALF_PLUS_TWO, outputs={"z": HALF_PLUS_TWO.outputs["y"]})
    case = Case(tmp_path, FakeVersion(function=shifted(2, "z"), signatures={"serving_default": other}))
    assert check(case.report({}), "signature").verdict is Verdict.FAIL


def test_a_version_that_cannot_predict_fails_although_it_is_available(tmp_path):
    case = Case(tmp_path, FakeVersion())
    case.server.fail_next("Predict", "FAILED_PRECONDITION", "Could not find variable w.")
    report = case.report({})
    assert report.verdict is Verdict.FAIL
    assert "Could not find variable w." in report.reason()


def test_a_made_up_request_that_is_called_invalid_leaves_the_verdict_open(tmp_path):
    case = Case(tmp_path, FakeVersion())
    case.server.fail_next("Predict", "INVALID_ARGUMENT", "no example")
    report = case.report({})
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "golden requests" in report.reason()


def test_a_server_that_does_not_answer_leaves_the_verdict_open(tmp_path):
    case = Case(tmp_path, FakeVersion())
    case.server.unreachable = True
    assert case.report({}).verdict is Verdict.INCONCLUSIVE


def test_an_answer_of_another_version_is_a_proxys_fault(tmp_path):
    case = Case(tmp_path, FakeVersion())

    class Proxy(FakeClient):
        def predict(self, *args, **kwargs):
            return replace(super().predict(*args, **kwargs), version=1)

    found = check(case.report({}, Proxy(case.server)), "prediction")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "with version 1" in found.detail


@pytest.mark.parametrize(
    ("function", "live", "gate", "verdict", "words"),
    [
        (identity, identity, {"floor": 0.99}, Verdict.PASS, "accuracy 1.0000"),
        (swapped, identity, {"floor": 0.5}, Verdict.FAIL, "accuracy 0.0000 is below the floor 0.5000"),
        (swapped, identity, {}, Verdict.FAIL, "worse than version 1 with accuracy 0.0000 against 1.0000"),
        (swapped, identity, {"allowed_drop": 1.0}, Verdict.PASS, "accuracy 0.0000"),
        (swapped, identity, {"compare_live": False}, Verdict.PASS, "accuracy 0.0000"),
        (identity, swapped, {"floor": 1.0, "batch_size": 3}, Verdict.PASS, "accuracy 1.0000"),
        (lambda inputs: {"scores": np.full_like(inputs["x"], np.nan)}, swapped, {"floor": 0.1}, Verdict.FAIL, "0.0000"),
    ],
)
def test_accuracy_against_the_floor_and_the_live_version(tmp_path, function, live, gate, verdict, words):
    signatures = {"serving_default": SCORES}
    case = Case(tmp_path, FakeVersion(function, signatures), FakeVersion(live, signatures), signatures)
    file = labelled_file(tmp_path, [0, 1] * 5)
    found = check(case.report({"accuracy": {"file": file, **gate}}), "accuracy")
    assert (found.verdict, words in found.detail) == (verdict, True), found.detail


def test_requests_that_do_not_fit_the_model_are_refused_before_it_is_asked(tmp_path):
    case = Case(tmp_path, FakeVersion())
    asked = len(case.server.requests)
    wrong_rank = tmp_path / "rank.tfrecord"
    write_golden(wrong_rank, MODEL, [GoldenRequest("serving_default", {"x": X[None]}, {"y": X[None]})])
    with pytest.raises(InvalidInput, match="rank"):
        case.report({"golden": {"file": str(wrong_rank)}})
    wrong_name = tmp_path / "name.tfrecord"
    write_golden(wrong_name, MODEL, [GoldenRequest("predict_images", {"x": X}, {"y": X})])
    with pytest.raises(InvalidInput, match="predict_images"):
        case.report({"golden": {"file": str(wrong_name)}})
    wrong_output = tmp_path / "output.tfrecord"
    write_golden(wrong_output, MODEL, [GoldenRequest("serving_default", {"x": X}, {"q": X})])
    with pytest.raises(InvalidInput, match="'q'"):
        case.report({"golden": {"file": str(wrong_output)}})
    with pytest.raises(InvalidInput, match="labelled"):
        case.report({"accuracy": {"file": labelled_file(tmp_path, [0, 1] * 5)}})
    assert len(case.server.requests) == asked


def test_accuracy_needs_to_know_which_output(tmp_path):
    two = replace(SCORES, outputs={**SCORES.outputs, "other": SCORES.outputs["scores"]})
    case = Case(tmp_path, FakeVersion(identity, {"serving_default": two}), signatures={"serving_default": two})
    with pytest.raises(InvalidInput, match=r"accuracy\.output"):
        case.report({"accuracy": {"file": labelled_file(tmp_path, [0, 1] * 5)}})


def test_verdicts_add_up():
    def one(verdict):
        return Check("g", "r", verdict, "")

    assert overall([]) is Verdict.INCONCLUSIVE
    assert overall([one(Verdict.PASS)]) is Verdict.PASS
    assert overall([one(Verdict.PASS), one(Verdict.INCONCLUSIVE)]) is Verdict.INCONCLUSIVE
    assert overall([one(Verdict.INCONCLUSIVE), one(Verdict.FAIL)]) is Verdict.FAIL


def test_every_signature_is_asked(tmp_path):
    signatures = {"serving_default": HALF_PLUS_TWO, "second": HALF_PLUS_TWO}
    case = Case(tmp_path, FakeVersion(half_plus_two, signatures), signatures=signatures)
    report = case.report({})
    asked = [request for name, request in case.server.requests if name == "Predict"]
    assert {request.model_spec.signature_name for request in asked} == set(signatures)
    assert report.verdict is Verdict.PASS


def test_an_output_that_does_not_come_back_fails_the_accuracy(tmp_path):
    signatures = {"serving_default": SCORES}
    case = Case(tmp_path, FakeVersion(lambda inputs: {"other": inputs["x"]}, signatures), signatures=signatures)
    found = check(case.report({"accuracy": {"file": labelled_file(tmp_path, [0, 1] * 5)}}), "accuracy")
    assert found.verdict is Verdict.FAIL
    assert "'scores'" in found.detail


def test_a_golden_file_without_requests_is_no_gate_and_refused(tmp_path):
    (tmp_path / "golden").write_bytes(b"")
    case = Case(tmp_path, FakeVersion())
    with pytest.raises(InvalidInput, match="holds no request"):
        case.report({"golden": {"file": str(tmp_path / "golden")}})


def test_a_live_version_that_cannot_be_asked_is_no_fault_of_the_candidate(tmp_path):
    np.savez(tmp_path / "labelled.npz", x=X, labels=X / 2 + 2)
    case = Case(tmp_path, FakeVersion())
    case.client.reload(to_proto([ModelEntry(MODEL, "/models/m", (2,), {})]), timeout=1.0)
    assert case.server.state(MODEL, 1) == "END"
    report = case.report({"accuracy": {"file": str(tmp_path / "labelled.npz")}})
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "live version 1 could not be compared with" in report.reason()
    alone = case.report({"accuracy": {"file": str(tmp_path / "labelled.npz"), "compare_live": False}})
    assert alone.verdict is Verdict.PASS


def spec(dtype, *shape) -> Signature:
    return replace(SCORES, outputs={"scores": TensorSpec(dtype, shape or None, "s:0")})


TEXT = np.array(["a", "b"] * 5)


@pytest.mark.parametrize(
    ("signature", "labels", "gate", "words"),
    [
        (spec("DT_STRING", None), [0, 1] * 5, {}, "dtype int64, but output 'scores' is DT_STRING"),
        (spec("DT_STRING"), [0, 1] * 5, {}, "dtype int64"),
        (spec("DT_STRING", None, 2), TEXT, {}, r"shape \[\?\]"),
        (spec("DT_INT64", None), TEXT, {}, "dtype <U1"),
        (spec("DT_FLOAT", None, 2), TEXT, {}, "dtype <U1"),
        (spec("DT_FLOAT", None, 2), np.zeros((10, 3), np.int64), {}, r"shape \[\?, 3\], but .* \[\?, 2\]"),
        (spec("DT_FLOAT", None, 2), [0, 2] * 5, {}, "reach from 0 to 2, but .* classes are 0 to 1"),
        (spec("DT_FLOAT", None, None), [0.5, 1.0] * 5, {}, "no class numbers"),
        (spec("DT_COMPLEX64", None, 2), [0, 1] * 5, {}, "DT_COMPLEX64"),
        (spec("DT_FLOAT", 1, 2), [0, 1] * 5, {}, "shape"),
        (SCORES, [0, 1] * 5, {"output": "other"}, "it names 'other'; there are scores"),
        (SCORES, [0, 1] * 5, {"signature": "other"}, "signature 'other', which the model lacks"),
        (replace(SCORES, inputs={"x": TensorSpec("DT_FLOAT", (4, 2), "x:0")}), [0, 1] * 5, {"batch_size": 4}, "is 2"),
        (SCORES, [], {}, "holds no examples"),
    ],
)
def test_labels_that_cannot_fit_the_output_are_refused_before_anything_is_asked(
    tmp_path, signature, labels, gate, words
):
    case = Case(tmp_path, FakeVersion(), signatures={"serving_default": signature})
    file = labelled_file(tmp_path, [0, 1] * 5)
    rows = np.eye(2, dtype=np.float32)[[0, 1] * 5][: len(labels)]
    np.savez(file, x=rows, labels=np.array(labels, dtype=None if len(labels) else np.int64))
    asked = len(case.server.requests)
    with pytest.raises(InvalidInput, match=words):
        case.report({"accuracy": {"file": file, **gate}})
    assert len(case.server.requests) == asked


@pytest.mark.parametrize("labels", [TEXT, np.char.encode(TEXT)])
def test_text_labels_are_compared_with_a_text_output(tmp_path, labels):
    signatures = {"serving_default": spec("DT_STRING", None)}

    def function(inputs):
        return {"scores": np.array([b"a", b"b"], dtype=object)[np.argmax(inputs["x"], axis=1)]}

    case = Case(tmp_path, FakeVersion(function, signatures), FakeVersion(function, signatures), signatures)
    outcome = check(case.report({"accuracy": {"file": labelled_file(tmp_path, labels), "floor": 1.0}}), "accuracy")
    assert outcome.verdict is Verdict.PASS, outcome.detail


def test_an_answer_of_an_open_shape_that_does_not_match_the_labels_leaves_the_verdict_open(tmp_path):
    signatures = {"serving_default": spec("DT_FLOAT")}
    case = Case(tmp_path, FakeVersion(lambda inputs: {"scores": inputs["x"][:1, 0]}, signatures), signatures=signatures)
    outcome = check(case.report({"accuracy": {"file": labelled_file(tmp_path, [0, 1] * 5)}}), "accuracy")
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert "cannot be compared with labels" in outcome.detail


@pytest.mark.parametrize("content", [None, b"no archive and no record"])
@pytest.mark.parametrize("gate", ["golden", "accuracy"])
def test_a_missing_or_damaged_file_of_a_gate_is_the_callers_mistake(tmp_path, gate, content):
    case = Case(tmp_path, FakeVersion())
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidInput, match="file"):
        case.report({gate: {"file": str(tmp_path / "file")}})


@pytest.mark.parametrize("expected", [np.array([b"2", b"3"], object), np.zeros((2, 1), np.float32)])
def test_recorded_outputs_that_the_signature_rules_out_are_refused(tmp_path, expected):
    path = tmp_path / "golden.tfrecord"
    write_golden(path, MODEL, [GoldenRequest("serving_default", {"x": X}, {"y": expected})])
    with pytest.raises(InvalidInput, match="expects the output 'y' as"):
        Case(tmp_path, FakeVersion()).report({"golden": {"file": str(path)}})


def test_the_worst_replica_counts_by_the_direction_of_the_metric():
    def one(gate, **measured):
        return Check(gate, "r", Verdict.PASS, "", measured)

    checks = (
        *(one("accuracy", accuracy=share, live_accuracy=share) for share in (0.9, 0.7)),
        *(one("golden", golden_error=error) for error in (0.1, 0.3)),
    )
    report = ValidationReport("m", 2, "f", ("r", "s"), checks, Verdict.PASS, "", 1.0)
    stored = from_json(ValidationReport, to_json(report))
    assert worst_metrics(stored) == {"accuracy": 0.7, "live_accuracy": 0.7, "golden_error": 0.3}


def test_a_report_of_an_older_release_is_read():
    stored = b"""{"model": "m", "version": 2, "fingerprint": "sha256:1", "replicas": ["r"], "checks": [{
    "gate": "golden", "replica": "r", "verdict": "pass", "detail": "1 recorded request(s)",
    "measured": {"golden_error": 0.5}}],
    "verdict": "pass", "at": "2026-01-01T00:00:00+00:00", "seconds": 1.0}"""
    assert worst_metrics(from_json(ValidationReport, stored)) == {"golden_error": 0.5}


def test_a_signature_whose_inputs_cannot_be_sent_is_not_asked(tmp_path):
    resource = replace(HALF_PLUS_TWO, inputs={"x": TensorSpec("DT_RESOURCE", (), "x:0")})
    signatures = {"serving_default": HALF_PLUS_TWO, "with_resource": resource}
    report = Case(tmp_path, FakeVersion(signatures=signatures), signatures=signatures).report({})
    assert check(report, "prediction").verdict is Verdict.PASS
    assert "1 of 2 signatures answered; with_resource" in check(report, "prediction").detail
