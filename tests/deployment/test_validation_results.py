"""What counts as proof that a version passed its gates, and what does not undo or replace it (I1)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployment_names import MODEL
from tfs_deploy.deployment import desired_state, validation_results
from tfs_deploy.deployment.steps.load import load
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.reject import reject
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.deployment.steps.validate import validate
from tfs_deploy.errors import NotFound, Refused
from tfs_deploy.savedmodel.requests import GoldenRequest, write_golden
from tfs_deploy.serving.config import from_text, to_proto
from tfs_deploy.validation.config import Gates, gates_from
from tfs_deploy.validation.report import Verdict

X = np.array([1.0, 2.0, 5.0], dtype=np.float32)


def labelled(folder: Path, *, offset: float) -> str:
    """Write a labelled set on which a version that adds `offset` is always right."""
    x = np.array([1.0, 2.0], dtype=np.float32)
    np.savez(folder / "labelled.npz", x=x, labels=x / 2 + np.float32(offset))
    return str(folder / "labelled.npz")


def loaded(bench, behaviour: str) -> int:
    version = bench.publish(behaviour)
    load(bench.session, MODEL, version)
    return version


def test_a_pass_without_the_gate_that_failed_does_not_make_a_version_promotable(bench, tmp_path):
    old = bench.promoted("good one")
    version = loaded(bench, "good two")
    strict = gates_from({"accuracy": {"file": labelled(tmp_path, offset=9.0), "floor": 0.9}})
    assert validate(bench.session, MODEL, version, strict).verdict is Verdict.FAIL
    bench.servers[1].unreachable = True
    assert validate(bench.session, MODEL, version, Gates()).verdict is Verdict.INCONCLUSIVE
    bench.servers[1].unreachable = False
    assert validate(bench.session, MODEL, version, Gates()).verdict is Verdict.PASS
    with pytest.raises(Refused, match=r"failed gate accuracy.*let the gates that failed run again"):
        promote(bench.session, MODEL, version)
    assert bench.answers() == [old, old]
    passable = gates_from({"accuracy": {"file": labelled(tmp_path, offset=2.0), "floor": 0.9}})
    assert validate(bench.session, MODEL, version, passable).verdict is Verdict.PASS
    assert promote(bench.session, MODEL, version).version == version


def test_why_a_version_failed_is_still_known_when_it_was_rejected(bench):
    version = bench.validated("wrong")
    report = validation_results.read(bench.store.documents, "default", MODEL, version)
    reject(bench.session, MODEL, version, reason=report.reason())
    assert validation_results.read(bench.store.documents, "default", MODEL, version) == report


def test_a_failure_undoes_an_earlier_pass(bench, tmp_path):
    old = bench.promoted("good one")
    version = bench.validated("good two")
    strict = gates_from({"accuracy": {"file": labelled(tmp_path, offset=9.0), "floor": 0.9}})
    validate(bench.session, MODEL, version, strict)
    with pytest.raises(Refused, match="failed gate accuracy"):
        promote(bench.session, MODEL, version)
    assert bench.answers() == [old, old]


def test_a_replica_that_does_not_say_what_is_live_leaves_the_comparison_undecided(bench, tmp_path):
    bench.promoted("good one")
    write_golden(tmp_path / "golden", MODEL, [GoldenRequest("serving_default", {"x": X}, {"y": X / 2 + 3})])
    file = labelled(tmp_path, offset=2.0)
    gates = gates_from({"golden": {"file": str(tmp_path / "golden")}, "accuracy": {"file": file}})
    version = loaded(bench, "wrong")
    for server in bench.servers:
        server.fail_next("GetModelStatus", "UNAVAILABLE", "too busy")
    report = validate(bench.session, MODEL, version, gates)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "too busy" in report.reason()
    assert validate(bench.session, MODEL, version, gates).verdict is Verdict.FAIL
    assert validation_results.read(bench.store.documents, "default", MODEL, version).verdict is Verdict.FAIL


def test_a_replica_that_restarted_after_the_validation_has_to_be_validated_again(bench):
    old = bench.promoted("good one")
    version = bench.validated("good two")
    # It comes up with its start-up file, which lists what a label names.
    entries = from_text(Path(bench.group.startup_config).read_text())
    bench.servers[1].config = to_proto(entries)
    bench.servers[1].restart()
    with pytest.raises(Refused, match=r"not AVAILABLE on replica replica-2:8500.*then validate it"):
        promote(bench.session, MODEL, version)
    load(bench.session, MODEL, version)
    with pytest.raises(Refused, match="never validated"):
        promote(bench.session, MODEL, version)
    assert bench.answers() == [old, old]
    validate(bench.session, MODEL, version, Gates())
    load(bench.session, MODEL, version)
    assert promote(bench.session, MODEL, version).version == version


def test_a_failure_is_not_forgotten_by_loading_again(bench):
    version = bench.validated("wrong")
    bench.servers[0].restart()
    bench.session.clients[bench.servers[1].target].reload(to_proto(()), timeout=1.0)
    load(bench.session, MODEL, version)
    with pytest.raises(Refused, match="failed gate golden"):
        promote(bench.session, MODEL, version)


def test_a_version_that_is_rejected_while_its_load_waits_is_not_listed(bench):
    old = bench.promoted("good one")
    version = loaded(bench, "good two")
    rejected = []

    class Documents:
        def __getattr__(self, name: str) -> Any:
            return getattr(bench.store.documents, name)

        def read(self, key: str) -> Any:
            if key.endswith("desired.json") and not rejected:
                rejected.append(key)
                reject(bench.session, MODEL, version, reason="another run says so")
            return bench.store.documents.read(key)

    class Store:
        documents = Documents()

        def __getattr__(self, name: str) -> Any:
            return getattr(bench.store, name)

    with pytest.raises(NotFound):
        load(replace(bench.session, store=Store()), MODEL, version)
    assert rejected
    assert desired_state.read(bench.store.documents, bench.group).models[MODEL].versions == (old,)


def test_a_version_that_was_compared_with_what_is_live_no_more_is_compared_again(bench, tmp_path):
    """Two runs at the same time: the slower one must not put a worse version over the better one of the other."""
    bench.promoted("good one")
    gates = gates_from({"accuracy": {"file": labelled(tmp_path, offset=2.0), "floor": 0.9}})
    slow, fast = loaded(bench, "good slow"), loaded(bench, "good fast")
    for version in (slow, fast):
        assert validate(bench.session, MODEL, version, gates).compared_with == (1,)
    promote(bench.session, MODEL, fast)
    assert rollback(bench.session, MODEL).version == 1, "going back compares nothing"
    assert rollback(bench.session, MODEL).version == fast
    assert promote(bench.session, MODEL, slow).version == slow
    report = validation_results.read(bench.store.documents, "default", MODEL, slow)
    assert report.compared_with == (fast,)


def test_nothing_that_was_live_is_something_to_compare_with_too(bench, tmp_path):
    gates = gates_from({"accuracy": {"file": labelled(tmp_path, offset=2.0), "floor": 0.9}})
    first, second = loaded(bench, "good one"), loaded(bench, "good two")
    for version in (first, second):
        assert validate(bench.session, MODEL, version, gates).compared_with == (0,)
    promote(bench.session, MODEL, first)
    promote(bench.session, MODEL, second)
    report = validation_results.read(bench.store.documents, "default", MODEL, second)
    assert report.compared_with == (first,)
