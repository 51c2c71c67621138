"""An error on the way to a replica leaves the verdict of a gate open; an error of the version fails it."""

from __future__ import annotations

import numpy as np
import pytest

from fakes import HALF_PLUS_TWO, FakeClient, FakeClock, FakeModelServer
from saved_model_files import write_saved_model
from tfs_deploy.errors import Inconclusive, ValidationFailed
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.requests import GoldenRequest, write_golden
from tfs_deploy.serving.config import ModelEntry, to_proto
from tfs_deploy.validation.config import gates_from
from tfs_deploy.validation.gates.golden import GoldenGate
from tfs_deploy.validation.report import ValidationReport, Verdict
from tfs_deploy.validation.runner import prepare_gates, require_pass, validate_replicas

X = np.float32([0.0, 2.0])
Y = np.float32([2.0, 3.0])
WAY = [
    ("RESOURCE_EXHAUSTED", "Server Threadpool Exhausted"),
    ("RESOURCE_EXHAUSTED", "Received message larger than max (900 vs. 400)"),
    ("ABORTED", "Try again"),
    ("CANCELLED", ""),
    ("UNAVAILABLE", "The batch scheduling queue to which this task was submitted is full"),
    ("UNAVAILABLE", "Socket closed"),
    ("INTERNAL", "Received RST_STREAM with error code 2"),
    ("UNKNOWN", "Stream removed"),
    ("UNKNOWN", "Received http2 header with status: 500"),
    ("DEADLINE_EXCEEDED", ""),
    ("UNIMPLEMENTED", ""),
    ("PERMISSION_DENIED", "RBAC: access denied"),
    ("UNAUTHENTICATED", "Jwt is missing"),
    ("NOT_FOUND", "Servable not found for request: Specific(m, 2)"),
    ("INVALID_ARGUMENT", "Task size 256 is larger than maximum input batch size 64"),
]
VERSION = [
    ("FAILED_PRECONDITION", "Could not find variable w."),
    ("INTERNAL", "Blas GEMM launch failed"),
    ("UNIMPLEMENTED", "The Conv2D op currently only supports the NHWC tensor format on the CPU"),
    ("NOT_FOUND", "Key not found in lookup table"),
    ("INVALID_ARGUMENT", "indices[0] = 7 is not in [0, 5)"),
]


class Replica:
    """A sound version 2 of `m`, and every gate that the defaults, a golden and a labelled file give."""

    def __init__(self, folder) -> None:
        directory = write_saved_model(folder / "model", signatures={"serving_default": HALF_PLUS_TWO})
        golden, labelled = folder / "golden.tfrecord", folder / "labelled.npz"
        write_golden(golden, "m", [GoldenRequest("serving_default", {"x": X}, {"y": Y})])
        np.savez(labelled, x=X, labels=Y)
        gates = gates_from({"golden": {"file": str(golden)}, "accuracy": {"file": str(labelled), "floor": 0.5}})
        self.prepared = prepare_gates(manifests.read(directory), gates, lambda path: (directory / path).read_bytes())
        self.server = FakeModelServer()
        self.server.put("/m", 2)
        FakeClient(self.server).reload(to_proto([ModelEntry("m", "/m", (2,))]), timeout=1)

    def report(self, *, busy_timeout: float = 0.0) -> ValidationReport:
        clock = FakeClock()
        client = FakeClient(self.server, clock=clock, busy_timeout=busy_timeout)
        return validate_replicas({client.target: client}, "m", 2, gates=self.prepared, live={}, clock=clock)

    def verdicts(self) -> dict[str, Verdict]:
        return {check.gate: check.verdict for check in self.report().checks}


@pytest.fixture
def replica(tmp_path) -> Replica:
    return Replica(tmp_path)


@pytest.mark.parametrize(("code", "details"), WAY)
def test_every_gate_is_inconclusive_after_an_error_on_the_way(replica: Replica, code: str, details: str) -> None:
    for method in ("Predict", "GetModelMetadata"):
        replica.server.fail_next(method, code, details, times=20)
    assert replica.verdicts() == dict.fromkeys(("signature", "prediction", "golden", "accuracy"), Verdict.INCONCLUSIVE)
    with pytest.raises(Inconclusive):
        require_pass(replica.report())


@pytest.mark.parametrize(("code", "details"), VERSION)
def test_every_gate_that_predicts_fails_after_an_error_of_the_version(
    replica: Replica, code: str, details: str
) -> None:
    replica.server.fail_next("Predict", code, details, times=20)
    verdicts = replica.verdicts()
    assert verdicts.pop("signature") is Verdict.PASS
    assert set(verdicts.values()) == {Verdict.FAIL}
    with pytest.raises(ValidationFailed):
        require_pass(replica.report())


@pytest.mark.parametrize("error", [ValueError("no such axis"), MemoryError(), OSError(5, "Input/output error")])
def test_a_gate_that_ends_with_an_error_of_its_own_is_inconclusive(
    replica: Replica, monkeypatch, error: Exception
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(GoldenGate, "check", broken)
    report = replica.report()
    assert [check.gate for check in report.checks if check.verdict is not Verdict.PASS] == ["golden"]
    assert report.verdict is Verdict.INCONCLUSIVE
    assert type(error).__name__ in report.reason()


def test_a_sound_version_passes_on_a_replica_that_answers_19_of_20_rpcs_busy(replica: Replica) -> None:
    replica.server.busy_share = 0.95
    assert replica.report(busy_timeout=60.0).verdict is Verdict.PASS


def test_a_sound_version_on_a_replica_that_stays_busy_is_inconclusive(replica: Replica) -> None:
    replica.server.busy_share = 1.0
    report = replica.report(busy_timeout=1.0)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "Server Threadpool Exhausted (asked " in report.reason()
