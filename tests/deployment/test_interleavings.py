"""Any interleaving of deployers, each of which may die anywhere, ends in a state that a serial order gives.

At every moment only versions that passed their gates answer `stable`, on every replica (I1, I2), and no file goes that
somebody uses (I5). At the end the replicas, the desired state and the record agree (I4), and nothing is left over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployment.memory_group import GROUP, MemoryGroup
from deployment.scheduler import Deployer, Turn
from saved_model_files import write_saved_model
from tfs_deploy.deployment.drift import require_no_drift
from tfs_deploy.deployment.modes.labels import deploy
from tfs_deploy.deployment.records import MOVES_STABLE, Action, DeploymentRecord, history
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.load import load, wait_until_available
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.publish import publish
from tfs_deploy.deployment.steps.reconcile import reconcile
from tfs_deploy.deployment.steps.reject import reject
from tfs_deploy.deployment.steps.retire import retire
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.deployment.steps.validate import validate
from tfs_deploy.errors import Drift, LoadFailed, NotFound, Refused, Transient, ValidationFailed
from tfs_deploy.savedmodel.requests import GoldenRequest
from tfs_deploy.serving.config import from_text
from tfs_deploy.validation.config import Gates

OLD, NEW = "old_model", "new_model"
CANDIDATE, WRONG = 4, 5
X = np.array([1.0, 2.0, 5.0], dtype=np.float32)
GOLDEN = (GoldenRequest("serving_default", {"x": X}, {"y": X / 2 + 2}),)
BEHAVIOURS = ["good one", "good two", "good three", "good candidate", "good other", "wrong", "wrong other", "broken"]


@pytest.fixture(scope="module")
def staged() -> Iterator[Path]:
    """A directory with a staged export of each behaviour."""
    with TemporaryDirectory() as folder:
        for behaviour in BEHAVIOURS:
            write_saved_model(Path(folder, behaviour), behaviour, golden=GOLDEN)
        yield Path(folder)


@dataclass(frozen=True)
class Step:
    """One step of a deployer; `behaviour` of what it deploys, or the `version` that it moves."""

    name: str
    model: str = OLD
    behaviour: str = ""
    version: int = 0

    def run(self, session: GroupSession, staged: Path) -> object:
        key = session.actor
        if self.name == "deploy":
            return deploy(session, staged / self.behaviour, self.model, Gates(), idempotency_key=key)
        if self.name == "promote":
            return promote(session, self.model, self.version, idempotency_key=key)
        if self.name == "rollback":
            return rollback(session, self.model, to=self.version or None, idempotency_key=key)
        if self.name == "reject":
            return reject(session, self.model, self.version, reason="by hand")
        if self.name == "retire":
            return retire(session, self.model, keep=0)
        return reconcile(session)


deploys = st.builds(Step, st.just("deploy"), st.sampled_from([OLD, NEW]), st.sampled_from(BEHAVIOURS))
steps = st.one_of(
    deploys,
    st.sampled_from(
        [
            Step("promote", version=CANDIDATE),
            Step("rollback"),
            Step("rollback", version=1),
            Step("rollback", NEW),
            Step("reject", version=CANDIDATE),
            Step("reject", version=WRONG),
            Step("retire"),
            Step("retire", NEW),
            Step("reconcile"),
        ]
    ),
)
turns = st.lists(
    st.builds(Turn, st.integers(0, 3), st.sampled_from([1, 1, 2, 3, 5, 8, 13, 21, 34, 55])), min_size=10, max_size=60
)
deaths = st.lists(st.one_of(st.none(), st.none(), st.integers(0, 200)), min_size=4, max_size=4)


def prepare(group: MemoryGroup, staged: Path) -> None:
    """Give the old model three versions that were live, a validated candidate and one that failed its gates."""
    session = group.session("preparation")
    for behaviour in BEHAVIOURS[:3]:
        deploy(session, staged / behaviour, OLD, Gates(), idempotency_key=f"preparation {behaviour}")
        group.check()
    for behaviour in ("good candidate", "wrong"):
        version = publish(session, staged / behaviour, OLD).version.version
        load(session, OLD, version)
        wait_until_available(session, OLD, version)
        validate(session, OLD, version, Gates())


def run_and_retry(
    group: MemoryGroup, wanted: list[Step], staged: Path, ends: list[int | None], order: list[Turn]
) -> list[Deployer]:
    """Run the steps at once by `order`; then reconcile, and run again what was interrupted."""
    scheduler = group.scheduler

    def start(number: int, dies_before: int | None = None) -> Deployer:
        session = group.session(f"deployer {number}")
        return Deployer(scheduler, lambda: wanted[number].run(session, staged), dies_before)

    first = [start(number, ends[number]) for number in range(len(wanted))]
    scheduler.run(first, order)
    for deployer in first:
        require_sensible_error(deployer)
    reconcile_alone(group)
    final = list(first)
    # Twice: an unload waits as long as the only other version is one that cannot be loaded, until that is rejected too.
    for _ in range(2):
        for number, deployer in enumerate(final):
            if deployer.dead or isinstance(deployer.error, Transient):
                final[number] = start(number)
                scheduler.run([final[number]])
                require_sensible_error(final[number])
    assert [each.error for each in final if isinstance(each.error, Transient)] == [], "an error of the way, alone"
    reconcile_alone(group)
    return final


def reconcile_alone(group: MemoryGroup) -> None:
    last = Deployer(group.scheduler, lambda: reconcile(group.session("the last one")))
    group.scheduler.run([last])
    assert last.error is None, f"reconcile: {last.error}"


def require_sensible_error(deployer: Deployer) -> None:
    error = deployer.error
    assert error is None or isinstance(error, NotFound | Refused | LoadFailed | ValidationFailed | Transient), repr(
        error
    )
    assert not isinstance(error, Drift), f"nobody changed a replica by hand: {error}"


def require_consistent_end(group: MemoryGroup) -> None:
    """Assert that nothing is left over, and that replicas, start-up file and desired state agree."""
    group.check()
    state, _ = require_no_drift(group.session("the end"))
    for name, model in state.models.items():
        assert model.move is None, f"{name} has an open move"
        assert model.unloading == (), f"{name} has {model.unloading} on the way out"
        assert 0 not in model.versions, f"{name} has a placeholder"
        stored = group.store.versions(name)
        assert set(model.versions) <= set(stored), f"{name} lists {model.versions}, and the store has {stored}"
        for version in model.labelled:
            assert group.has_passed(name, version), f"no rollback to {name} {version}"
        for server in group.servers:
            assert server.labels[name] == model.labels, f"{name} on {server.target}"
            available = [version for version in stored if server.state(name, version) == "AVAILABLE"]
            assert available == list(model.versions), f"{name} on {server.target}"
    assert group.store.placeholders == set()
    startup = {entry.name: dict(entry.labels) for entry in from_text(Path(group.group.startup_config).read_text())}
    assert startup == {name: dict(model.labels) for name, model in state.models.items() if model.labels}


def require_serial_order(group: MemoryGroup, wanted: list[Step], final: list[Deployer]) -> None:
    """Assert that the moves in the record, one after the other as they stand there, are what happened."""
    for model in (OLD, NEW):
        records = history(group.store.documents, GROUP, model)
        moves = [record for record in records if record.action in MOVES_STABLE]
        labels: dict[str, int] = {}
        for record in moves:
            labels = labels_after(labels, record)
        desired = group.state().models.get(model)
        assert labels == (dict(desired.labels) if desired else {}), f"{model}: the record says otherwise"
        assert [record.version for record in moves] == group.live.get(model, []), f"{model}: the replicas say otherwise"
        require_each_once(records)
        require_moves_of_steps(moves, model, wanted, final)


def labels_after(labels: dict[str, int], record: DeploymentRecord) -> dict[str, int]:
    """Return the labels after the move of `record`, as a group without anybody else would have them."""
    live = labels.get("stable")
    assert record.previous == live, f"{record} follows {labels}"
    assert record.action in (Action.PROMOTED, Action.ROLLED_BACK), "no replica failed"
    assert record.version != live, "a move moves"
    return {"stable": record.version, **({} if live is None else {"previous": live})}


def require_each_once(records: Iterable[DeploymentRecord]) -> None:
    once = [
        (record.action, record.version)
        for record in records
        if record.action in (Action.PUBLISHED, Action.REJECTED, Action.RETIRED)
    ]
    assert len(once) == len(set(once)), f"recorded twice: {once}"


def require_moves_of_steps(
    moves: list[DeploymentRecord], model: str, wanted: list[Step], final: list[Deployer]
) -> None:
    keys = [record.idempotency_key for record in moves]
    assert len(keys) == len(set(keys)), f"moved twice: {keys}"
    for number, step in enumerate(wanted):
        mine = [record for record in moves if record.idempotency_key == f"deployer {number}"]
        if step.model != model or step.name not in ("deploy", "promote", "rollback"):
            assert mine == [], f"{step} moved a label of {model}"
        elif final[number].error is None and step.name == "rollback":
            assert len(mine) == 1, f"{step} moved nothing"
        elif final[number].error is None:
            result = final[number].result
            version = step.version or result.published.version.version
            assert version in {record.version for record in moves}, f"{step} moved nothing"


@settings(max_examples=150)
@given(wanted=st.lists(steps, min_size=2, max_size=4), ends=deaths, order=turns)
def test_any_interleaving_ends_as_a_serial_order_does(staged, wanted, ends, order):
    with TemporaryDirectory() as folder:
        group = MemoryGroup(Path(folder, "models.config"))
        with group.scheduler.in_charge():
            prepare(group, staged)
            final = run_and_retry(group, wanted, staged, ends, order)
            require_consistent_end(group)
            require_serial_order(group, wanted, final)
