"""Both modes offer the same steps, one module asks for the mode, and a failed deploy says why it failed."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import tfs_deploy
from deployment_names import MODEL
from tfs_deploy.deployment.modes import labels, latest, reject_on_failure, steps_of
from tfs_deploy.deployment.modes.interface import ModeSteps
from tfs_deploy.deployment.records import Action, history
from tfs_deploy.deployment.steps.load import load
from tfs_deploy.errors import InvalidInput, LoadFailed, NotFound, Refused, Unreachable, ValidationFailed
from tfs_deploy.savedmodel.requests import GoldenRequest, write_golden
from tfs_deploy.serving.group import Mode
from tfs_deploy.validation.config import gates_from

PACKAGE = Path(tfs_deploy.__file__).parent
STEPS = [name for name in vars(ModeSteps) if not name.startswith("_")]


@pytest.fixture
def failing_gates(tmp_path):
    """Return gates that no version passes."""
    from deployment.conftest import X

    write_golden(tmp_path / "golden", MODEL, [GoldenRequest("serving_default", {"x": X}, {"y": X * 99})])
    return gates_from({"golden": {"file": str(tmp_path / "golden")}})


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("mode", [labels, latest])
def test_every_mode_has_every_step_with_the_arguments_of_the_interface(mode, step) -> None:
    wanted = [name for name in inspect.signature(getattr(ModeSteps, step)).parameters if name != "self"]
    assert [name for name in inspect.signature(getattr(mode, step)).parameters if name in wanted] == wanted


def test_only_one_module_asks_a_group_for_its_mode() -> None:
    for path in PACKAGE.rglob("*.py"):
        source = str(path.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and "group.mode" in ast.unparse(node):
                raise AssertionError(f"{source}, line {node.lineno} asks for the mode")


def test_commands_and_operators_take_the_steps_of_the_mode() -> None:
    """A step that is imported from `steps` would ignore the mode of the group."""
    for path in PACKAGE.rglob("*.py"):
        if path.is_relative_to(PACKAGE / "deployment"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tfs_deploy.deployment"):
                taken = {alias.name for alias in node.names} & set(STEPS)
                assert node.module == "tfs_deploy.deployment.modes" or not taken, f"{path.name} imports {taken}"


def test_a_deploy_that_fails_on_a_labelled_version_says_why_it_failed(bench, failing_gates) -> None:
    live = bench.promoted("good one")
    with pytest.raises(ValidationFailed, match="failed gate golden") as failed:
        steps_of(bench.session).deploy(
            bench.session, bench.staged("good one"), MODEL, failing_gates, make_runner=_no_runner
        )
    assert f"Version {live} of model {MODEL!r} carries the label 'stable'." in str(failed.value)
    assert "The version was therefore not withdrawn." in str(failed.value)
    assert bench.answers() == [live, live]
    assert bench.store.versions(MODEL) == (live,)


def test_a_labelled_version_that_cannot_be_loaded_says_so(bench) -> None:
    live = bench.promoted("good one")
    error = LoadFailed("Replica one could not load it.", "Export again.")
    with (
        pytest.raises(LoadFailed, match=r"could not load it\. .*carries the label 'stable'\. .* Export again\."),
        reject_on_failure(bench.session, MODEL, live, labels.reject),
    ):
        raise error
    assert bench.answers() == [live, live]


def test_a_rejection_that_is_interrupted_says_why_the_version_is_to_be_rejected(bench) -> None:
    bench.promoted("good one")
    version = bench.publish("good two")
    load(bench.session, MODEL, version)
    bench.servers[1].unreachable = True
    with (
        pytest.raises(Unreachable, match=r"replica-2:8500.*still to be rejected: Replica one could not load it\."),
        reject_on_failure(bench.session, MODEL, version, labels.reject),
    ):
        raise LoadFailed("Replica one could not load it.", "Export again.")
    bench.servers[1].unreachable = False
    assert labels.reject(bench.session, MODEL, version, reason="it does not load").version == version


def test_a_version_that_fails_and_may_go_is_rejected_without_another_word(bench) -> None:
    bench.promoted("good one")
    with pytest.raises(ValidationFailed) as failed:
        labels.deploy(bench.session, bench.staged("wrong"), MODEL, gates_from({}))
    assert "withdrawn" not in str(failed.value)
    assert history(bench.store.documents, "default", MODEL)[-1].action is Action.REJECTED
    assert bench.store.versions(MODEL) == (1,)


@pytest.mark.parametrize("mode", [Mode.LABELS, Mode.LATEST])
def test_a_version_that_was_never_published_cannot_be_rejected(make, tmp_path, mode) -> None:
    bench = make(tmp_path, mode=mode)
    with pytest.raises(NotFound, match="99"):
        steps_of(bench.session).reject(bench.session, MODEL, 99, reason="a mistake")
    assert history(bench.store.documents, "default", MODEL) == ()


def test_rejecting_twice_records_it_once(bench) -> None:
    bench.promoted("good one")
    version = bench.publish("good two")
    first = labels.reject(bench.session, MODEL, version, reason="by mistake")
    assert labels.reject(bench.session, MODEL, version, reason="by mistake") == first


def test_a_group_without_labels_refuses_what_it_cannot_do(make, tmp_path) -> None:
    bench = make(tmp_path, mode=Mode.LATEST)
    steps = steps_of(bench.session)
    with pytest.raises(Refused, match="nothing to load"):
        steps.load(bench.session, MODEL, 1)
    with pytest.raises(Refused, match="nothing to promote"):
        steps.promote(bench.session, MODEL, 1)
    with pytest.raises(Refused, match="nothing to retire"):
        steps.retire(bench.session, MODEL)
    with pytest.raises(InvalidInput, match="one version back"):
        steps.rollback(bench.session, MODEL, to=1)


def _no_runner():
    raise AssertionError("this mode needs no throw-away server")
