"""Versions that were validated at the same time go live only where they are not worse than what is live now (I1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployment_names import MODEL
from fakes import FakeVersion
from tfs_deploy.deployment import desired_state, records, validation_results
from tfs_deploy.deployment.comparison import compare_again
from tfs_deploy.deployment.desired_state import STABLE
from tfs_deploy.deployment.steps.load import load
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.reject import reject
from tfs_deploy.deployment.steps.validate import validate
from tfs_deploy.errors import Contention, NotFound, Refused, StoreError, ValidationFailed
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.savedmodel.requests import GoldenRequest, write_golden
from tfs_deploy.validation.config import Gates, gates_from
from tfs_deploy.validation.report import ValidationReport, Verdict
from tfs_deploy.validation.runner import worst_metrics

# Above the inputs of the golden requests, which every version answers rightly.
INPUTS = np.arange(10.0, 20.0, dtype=np.float32)
LABELS = INPUTS / 2 + 2


def right_on(count: int) -> FakeVersion:
    """Return a version that answers `count` of the ten labelled examples rightly."""
    return FakeVersion(
        function=lambda inputs: {"y": (inputs["x"] / 2 + np.where(inputs["x"] < 10 + count, 2, 3)).astype(np.float32)}
    )


@dataclass
class Runs:
    """Runs of one model on a workbench, whose gates name a labelled set on a disk of their own."""

    bench: Any
    folder: Path

    def gates(self, **options: Any) -> Gates:
        file = self.folder / "labelled.npz"
        if not file.exists():
            np.savez(file, x=INPUTS, labels=LABELS)
        return gates_from({"accuracy": {"file": str(file), **options}})

    def loaded(self, count: int) -> int:
        version = self.bench.publish(f"good {count}")
        for server in self.bench.servers:
            server.put(self.bench.group.base_path(MODEL), version, right_on(count))
        load(self.bench.session, MODEL, version)
        return version

    def validated(self, count: int, gates: Gates) -> int:
        version = self.loaded(count)
        assert validate(self.bench.session, MODEL, version, gates).verdict is Verdict.PASS
        return version

    def report(self, version: int) -> ValidationReport:
        report = validation_results.read(self.bench.store.documents, "default", MODEL, version)
        assert report is not None
        return report

    def live(self) -> int:
        state = desired_state.read(self.bench.store.documents, self.bench.group)
        return state.labels(MODEL).get(STABLE, 0)

    def compared(self, version: int) -> ValidationReport:
        return compare_again(self.bench.session, MODEL, version, self.report(version), self.live())

    def decided(self, version: int) -> str:
        """Promote `version`, which compares it with what is live now; return how that ended."""
        try:
            assert promote(self.bench.session, MODEL, version).version == version
        except ValidationFailed as error:
            rejected = records.history(self.bench.store.documents, "default", MODEL)[-1]
            assert (rejected.action, rejected.version) == (records.Action.REJECTED, version)
            assert version not in self.bench.store.versions(MODEL)
            assert {server.state(MODEL, version) for server in self.bench.servers} == {"END"}
            return error.cause
        return "live"

    def predictions(self) -> int:
        return sum(name == "Predict" for server in self.bench.servers for name, _ in server.requests)


@pytest.fixture
def runs(bench, tmp_path) -> Runs:
    (tmp_path / "gates").mkdir()
    return Runs(bench, tmp_path / "gates")


@pytest.mark.parametrize("drop", [0.0, 0.2])
@pytest.mark.parametrize("counts", [*permutations((8, 7, 5)), *permutations((6, 9)), (4, 2, 9)])
def test_of_versions_validated_at_once_each_goes_live_unless_it_is_worse_than_the_live_one(runs, counts, drop):
    gates = runs.gates(allowed_drop=drop)
    versions = {runs.validated(count, gates): count for count in counts}
    assert {runs.report(version).compared_with for version in versions} == {(0,)}
    live, live_count = 0, 0
    for version, count in versions.items():
        ended = runs.decided(version)
        if count / 10 >= live_count / 10 - drop - 1e-9:
            assert ended == "live"
            live, live_count = version, count
        else:
            allowed = f" (allowed drop {drop:g})" if drop else ""
            reason = f"worse than version {live} with accuracy {count / 10:.4f} against {live_count / 10:.4f}{allowed}"
            assert reason in ended
        assert runs.bench.answers() == [live, live]
    history = records.history(runs.bench.store.documents, "default", MODEL)
    assert {entry.version for entry in history if entry.action.value in ("promoted", "rejected")} == set(versions)


def test_the_new_outcome_replaces_only_the_checks_of_the_gates_that_compare(runs):
    gates = runs.gates()
    first, second = runs.validated(6, gates), runs.validated(8, gates)
    promote(runs.bench.session, MODEL, first)
    before = runs.report(second)
    after = runs.compared(second)
    assert after == runs.report(second)
    assert after.compared_with == (first,)
    assert [check for check in after.checks if check.gate != "accuracy"] == [
        check for check in before.checks if check.gate != "accuracy"
    ]
    assert worst_metrics(after)["live_accuracy"] == 0.6
    assert "live_accuracy" not in worst_metrics(before)
    assert len(after.checks) == len(before.checks)


@pytest.mark.parametrize("gates", ["defaults", "compare_live off"])
def test_gates_that_do_not_compare_are_not_run_again(runs, gates):
    wanted = Gates() if gates == "defaults" else runs.gates(compare_live=False)
    first, second = runs.validated(9, wanted), runs.validated(3, wanted)
    promote(runs.bench.session, MODEL, first)
    asked = runs.predictions()
    assert runs.compared(second) == runs.report(second)
    assert runs.predictions() == asked
    assert runs.decided(second) == "live"


def test_a_report_that_compared_with_the_live_version_is_not_made_again(runs):
    first = runs.validated(5, runs.gates())
    promote(runs.bench.session, MODEL, first)
    second = runs.validated(6, runs.gates())
    asked = runs.predictions()
    assert runs.compared(second) == runs.report(second)
    promote(runs.bench.session, MODEL, second)
    assert runs.compared(second).verdict is Verdict.PASS, "a version is not compared with itself"
    assert runs.predictions() == asked


def test_another_machine_without_the_gate_files_compares_too(runs, tmp_path, monkeypatch):
    write_golden(
        runs.folder / "golden", MODEL, [GoldenRequest("serving_default", {"x": INPUTS[:2]}, {"y": LABELS[:2]})]
    )
    file = runs.folder / "labelled.npz"
    np.savez(file, x=INPUTS, labels=LABELS)
    gates = gates_from({"accuracy": {"file": str(file)}, "golden": {"file": str(runs.folder / "golden")}})
    better, worse = runs.validated(8, gates), runs.validated(7, gates)
    promote(runs.bench.session, MODEL, better)
    for path in runs.folder.iterdir():
        path.unlink()
    runs.folder.rmdir()
    temporary = tmp_path / "temporary files of another machine"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert f"worse than version {better}" in runs.decided(worse)
    assert list(temporary.iterdir()) == []


def test_what_is_live_no_more_is_compared_with_nothing(runs):
    first = runs.validated(8, runs.gates())
    promote(runs.bench.session, MODEL, first)
    second = runs.validated(9, runs.gates())
    report = compare_again(runs.bench.session, MODEL, second, runs.report(second), 0)
    assert report.verdict is Verdict.PASS
    assert report.compared_with == (0,)


def test_a_replica_that_does_not_answer_decides_nothing(runs):
    first, second = runs.validated(8, runs.gates()), runs.validated(9, runs.gates())
    promote(runs.bench.session, MODEL, first)
    before = runs.report(second)
    runs.bench.servers[1].unreachable = True
    assert runs.compared(second).verdict is Verdict.INCONCLUSIVE
    assert runs.report(second) == before
    runs.bench.servers[1].unreachable = False
    assert runs.decided(second) == "live"


def test_a_replica_on_which_it_is_worse_decides_although_another_does_not_answer(runs):
    first, second = runs.validated(8, runs.gates()), runs.validated(5, runs.gates())
    promote(runs.bench.session, MODEL, first)
    runs.bench.servers[1].unreachable = True
    report = runs.compared(second)
    assert report.verdict is Verdict.FAIL
    assert f"worse than version {first}" in report.reason()


def test_a_damaged_gate_file_is_no_verdict(runs):
    first, second = runs.validated(8, runs.gates()), runs.validated(9, runs.gates())
    promote(runs.bench.session, MODEL, first)
    before = runs.report(second)
    documents = runs.bench.store.documents
    part = next(key for key in documents.list("gate_files/") if not key.endswith(".json"))
    documents.write(part, b"other bytes", expected=documents.read(part).tag)
    with pytest.raises(StoreError, match=r"labelled\.npz.*Validate the version again"):
        runs.compared(second)
    assert runs.report(second) == before
    assert runs.bench.answers() == [first, first]
    validate(runs.bench.session, MODEL, second, runs.gates())
    assert runs.decided(second) == "live"


def test_a_report_of_an_earlier_release_cannot_be_compared_again(runs):
    first, second = runs.validated(8, runs.gates()), runs.validated(9, runs.gates())
    documents, key = runs.bench.store.documents, f"groups/default/verdicts/{MODEL}/{second}.json"
    promote(runs.bench.session, MODEL, first)
    text = documents.read(key).body
    fields = from_json(dict, text)
    del fields["gates"]
    documents.write(key, to_json(fields), expected=documents.read(key).tag)
    assert runs.report(second).gates is None
    with pytest.raises(Refused, match=rf"compared with version none as the live one, and version {first} is live now"):
        runs.compared(second)


def test_a_replica_that_joined_since_the_validation_is_refused(runs):
    first, second = runs.validated(8, runs.gates()), runs.validated(9, runs.gates())
    promote(runs.bench.session, MODEL, first)
    report = runs.report(second)
    earlier = replace(report, replicas=report.replicas[:1])
    with pytest.raises(Refused, match="not validated on replica replica-2:8500"):
        compare_again(runs.bench.session, MODEL, second, earlier, first)


def test_a_version_that_is_not_loaded_any_more_is_not_judged(runs):
    first, second = runs.validated(8, runs.gates()), runs.validated(9, runs.gates())
    promote(runs.bench.session, MODEL, first)
    report = runs.report(second)
    reject(runs.bench.session, MODEL, second, reason="another run")
    with pytest.raises(NotFound):
        compare_again(runs.bench.session, MODEL, second, report, first)


def during_the_comparison(runs: Runs, monkeypatch, action) -> None:
    """Let `action` happen once, when the next comparison has run and is not saved yet."""
    pending = [action]
    save = validation_results.replace

    def interrupted(*arguments):
        if pending:
            pending.pop()()
        return save(*arguments)

    monkeypatch.setattr(validation_results, "replace", interrupted)


def test_a_failure_that_another_run_measured_meanwhile_stays(runs, monkeypatch):
    first, second = runs.validated(8, runs.gates()), runs.validated(9, runs.gates())
    promote(runs.bench.session, MODEL, first)
    strict = runs.gates(floor=0.95)
    during_the_comparison(runs, monkeypatch, lambda: validate(runs.bench.session, MODEL, second, strict))
    report = runs.compared(second)
    assert report.verdict is Verdict.FAIL
    assert "below the floor" in report.reason()
    assert runs.report(second) == report


def test_two_runs_that_compare_the_same_version_agree(runs, monkeypatch):
    first, second = runs.validated(8, runs.gates()), runs.validated(9, runs.gates())
    promote(runs.bench.session, MODEL, first)
    runs.bench.clock.advance(5)
    other: list[ValidationReport] = []
    report = runs.report(second)

    def compare_too() -> None:
        other.append(compare_again(runs.bench.session, MODEL, second, report, first))
        runs.bench.clock.advance(5)

    during_the_comparison(runs, monkeypatch, compare_too)
    assert runs.compared(second) == other[0] == runs.report(second)


def test_a_version_that_is_loaded_again_meanwhile_has_to_be_validated_again(runs, monkeypatch):
    first, second = runs.validated(8, runs.gates()), runs.validated(9, runs.gates())
    promote(runs.bench.session, MODEL, first)
    during_the_comparison(runs, monkeypatch, lambda: validation_results.invalidate(runs.bench.session, MODEL, second))
    with pytest.raises(Refused, match="never validated"):
        runs.compared(second)
    assert validation_results.read(runs.bench.store.documents, "default", MODEL, second) is None


def test_reports_that_keep_changing_end_in_an_error_that_may_be_tried_again(runs, monkeypatch):
    first, second = runs.validated(8, runs.gates()), runs.validated(9, runs.gates())
    promote(runs.bench.session, MODEL, first)
    report = runs.report(second)
    moments = iter(range(100))
    monkeypatch.setattr(
        validation_results, "replace", lambda *_: replace(report, at=f"2026-01-01T00:00:{next(moments):02}+00:00")
    )
    with pytest.raises(Contention, match="validated by another run"):
        runs.compared(second)
