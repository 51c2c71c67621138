"""Kill the deployer before every single operation in turn: run again, it converges, and `stable` always answered.

Invariants I1 (only versions that passed answer `stable`), I2 (no client fails), I3 (a re-run converges) and I4 (one
record per move).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployment.fuse import Fuse, Killed, fused
from deployment_names import MODEL
from tfs_deploy.deployment import desired_state
from tfs_deploy.deployment.modes.labels import deploy
from tfs_deploy.deployment.records import Action, history, version_at
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.load import load
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.reject import reject
from tfs_deploy.deployment.steps.retire import ABANDONED_AFTER, retire
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.serving.config import from_text
from tfs_deploy.validation.config import Gates

pytestmark = pytest.mark.faults


def deploy_good(bench, session: GroupSession) -> None:
    deploy(session, bench.staged("good two"), MODEL, Gates())


def roll_back(bench, session: GroupSession) -> None:
    rollback(session, MODEL, to=bench.first)


def retire_old(bench, session: GroupSession) -> None:
    retire(session, MODEL, keep=0)


def retire_abandoned(bench, session: GroupSession) -> None:
    retire(session, MODEL, keep=0)


def reject_wrong(bench, session: GroupSession) -> None:
    reject(session, MODEL, bench.wrong, reason="wrong answers")


def prepared(make, folder: Path, scenario: Callable[..., None]):
    """Return a group before `scenario`, with the versions that may answer `stable` in `passed`."""
    folder.mkdir()
    bench = make(folder)
    bench.first = bench.promoted("good one")
    bench.passed = {bench.first}
    if scenario is deploy_good:
        bench.passed.add(bench.first + 1)
    if scenario in (roll_back, retire_old):
        bench.passed.add(bench.promoted("good two"))
    if scenario is retire_old:
        bench.passed.add(bench.promoted("good three"))
    if scenario is retire_abandoned:
        bench.validated("good two")
        bench.clock.advance(ABANDONED_AFTER.total_seconds())
    if scenario is reject_wrong:
        bench.wrong = bench.validated("wrong")
    return bench


def finished(bench, scenario: Callable[..., None]) -> None:
    """Assert the end state that a run without any crash has."""
    state = desired_state.read(bench.store.documents, bench.group)
    assert [name for name, model in state.models.items() if model.move] == []
    records = history(bench.store.documents, "default", MODEL)
    served = version_at(bench.store.documents, "default", MODEL, bench.clock.now())
    assert [served.version] * 2 == bench.answers(), "the record tells what is live"
    if scenario is deploy_good:
        assert bench.store.versions(MODEL) == (bench.first, bench.first + 1), "one version, no second one"
        assert bench.answers() == [bench.first + 1] * 2
        assert [entry.version for entry in records if entry.action is Action.PROMOTED] == [1, 2]
        assert [entry.version for entry in records if entry.action is Action.PUBLISHED] == [1, 2]
    if scenario is roll_back:
        assert bench.answers() == [bench.first] * 2
        assert [entry.version for entry in records if entry.action is Action.ROLLED_BACK] == [bench.first]
    if scenario is retire_old:
        assert bench.store.versions(MODEL) == (2, 3)
        assert [entry.version for entry in records if entry.action is Action.RETIRED] == [1]
        assert all(server.state(MODEL, 1) == "END" for server in bench.servers)
    if scenario is retire_abandoned:
        assert bench.store.versions(MODEL) == (bench.first,)
        assert state.models[MODEL].unloading == ()
        assert [entry.version for entry in records if entry.action is Action.RETIRED] == [bench.first + 1]
    if scenario is reject_wrong:
        assert bench.store.versions(MODEL) == (bench.first,)
        assert [entry.version for entry in records if entry.action is Action.REJECTED] == [bench.wrong]
    leftovers = [path for path in (bench.folder / "store" / MODEL).iterdir() if ".partial-" in path.name]
    assert leftovers == []


@pytest.mark.parametrize("scenario", [deploy_good, roll_back, retire_old, retire_abandoned, reject_wrong])
def test_killed_before_any_operation_a_plain_rerun_converges(make, tmp_path, scenario, monkeypatch, tell):
    # Processes die here, not machines: what was written is there, so syncing would only cost time.
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    points = 0
    for at in range(1000):
        bench = prepared(make, tmp_path / str(at), scenario)

        def watch(bench=bench) -> None:
            assert set(bench.answers()) <= bench.passed

        fuse = Fuse(at, watch)
        try:
            scenario(bench, fused(bench.session, fuse))
        except Killed:
            points += 1
            watch()
        else:
            finished(bench, scenario)
            break
        if scenario is roll_back and bench.answers() == [bench.first] * 2 and _settled(bench):
            finished(bench, scenario)
            continue
        scenario(bench, fused(bench.session, Fuse(10_000, watch)))
        finished(bench, scenario)
    else:
        pytest.fail("the scenario never ended")
    assert points > 10, "the fuse was not in the way of the step"
    tell(f"{scenario.__name__}: killed before {points} operations, 0 violations")


@pytest.mark.parametrize("document", ["/records/", "desired.json"])
def test_what_follows_a_promotion_that_was_killed_once_it_was_through_knows_of_it(make, tmp_path, document):
    """Killed after its record or at any later write: the next rollback goes one version back, not two."""
    bench = make(tmp_path)
    two = [bench.promoted("good one"), bench.promoted("good two")][1]
    three = bench.validated("good three")
    with pytest.raises(Killed):
        promote(killed_after_writing(bench.session, document, label_everywhere=lambda: bench.stable()), MODEL, three)
    assert bench.answers() == [three, three]
    bench.clock.advance(60)
    other = bench.publish("good four")
    load(bench.session, MODEL, other)
    entry = from_text(Path(bench.group.startup_config).read_text())[0]
    assert entry.labels == {"stable": three, "previous": two}, "a replica that restarts comes up with what is live"
    assert rollback(bench.session, MODEL).version == two
    assert bench.answers() == [two, two]


def killed_after_writing(session: GroupSession, document: str, *, label_everywhere: Callable[[], Any]) -> GroupSession:
    """Let the process die after it has written `document`, once every replica answers `stable` from one version."""
    before = label_everywhere()

    class Documents:
        def __getattr__(self, name: str) -> Any:
            return getattr(session.store.documents, name)

        def write(self, key: str, body: bytes, *, expected: str | None) -> str:
            tag = session.store.documents.write(key, body, expected=expected)
            if document in key and label_everywhere() != before:
                raise Killed
            return tag

    class Store:
        documents = Documents()

        def __getattr__(self, name: str) -> Any:
            return getattr(session.store, name)

    return replace(session, store=Store())


def _settled(bench) -> bool:
    """Tell whether a rollback was through already: to run it again would be refused as being stable already."""
    state = desired_state.read(bench.store.documents, bench.group)
    return state.models[MODEL].move is None and state.labels(MODEL)["stable"] == bench.first
