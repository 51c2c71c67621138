"""The commands `reconcile` and `undeploy`, and the question about a model name that may be a slip."""

from __future__ import annotations

import pytest

from cli.desk import MODEL, Desk, deployed
from tfs_deploy.cli.invocation import Invocation


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let somebody answer n to every question; return the questions."""
    asked: list[str] = []

    def confirm(question: str, **_: object) -> bool:
        asked.append(question)
        return False

    monkeypatch.setattr(Invocation, "can_ask", lambda self: True)
    monkeypatch.setattr("typer.confirm", confirm)
    return asked


def test_reconcile_lists_what_differed_and_was_corrected(desk: Desk) -> None:
    deployed(desk, "good 1", "good 2")
    assert "Nothing to do" in desk.run("reconcile").out
    desk.servers["replica-2:8500"].labels[MODEL]["stable"] = 1
    ran = desk.run("reconcile")
    assert ran.code == 0
    assert "Brought 1 replica of group default to the desired state" in ran.out
    assert "replica-2:8500: " in ran.out
    assert "should answer version 2 and answers 1" in ran.out
    assert desk.run("status", "--check").code == 0
    assert desk.run("reconcile", "--json").json == {"group": "default", "replicas": {}}


def test_reconcile_needs_a_store_that_exists(desk: Desk) -> None:
    ran = desk.run("reconcile", "--target", "replica-1:8500", "--store", desk.folder / "absent", where=False)
    assert ran.code == 2
    assert "There is no store in" in ran.err
    assert not (desk.folder / "absent").exists()


def test_undeploy_asks_first(desk: Desk, answers: list[str]) -> None:
    deployed(desk, "good 1")
    ran = desk.run("undeploy", MODEL)
    assert ran.code == 1
    assert answers == [f"Group default will stop serving {MODEL}. Go on?"]
    assert desk.servers["replica-1:8500"].labels[MODEL]["stable"] == 1
    assert "1 version (1) unloaded, still in the store" in desk.run("undeploy", MODEL, "--yes").out
    assert desk.servers["replica-1:8500"].labels.get(MODEL, {}) == {}


def test_undeploy_without_somebody_to_ask_needs_the_option(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Invocation, "can_ask", lambda self: False)
    deployed(desk, "good 1")
    ran = desk.run("undeploy", MODEL)
    assert ran.code == 2
    assert "--yes" in ran.err


def test_a_name_that_may_be_a_slip_is_asked_about_before_anything_is_published(desk: Desk, answers: list[str]) -> None:
    deployed(desk, "good 1")
    slip = MODEL.upper()
    ran = desk.run("publish", desk.staged("good 2"), "--model", slip)
    assert ran.code == 1
    assert answers == [
        f"This is the first version of a new model, '{slip}', in group 'default'. Its name differs by one letter or by "
        f"case from '{MODEL}'. Is that meant?"
    ]
    assert not (desk.store / slip).exists()
    ran = desk.run("publish", desk.staged("good 2"), "--model", slip, "--new-model")
    assert ran.code == 0
    assert "First version of a new model. Published version 1" in ran.out
    assert len(answers) == 1
