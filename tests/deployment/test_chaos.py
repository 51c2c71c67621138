"""Deploys while every RPC of the deployer fails with probability 1/4, and clients ask `stable` all the time.

CHAOS_DEPLOYS=100 makes it 100 deploys, 30 of them bad.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from background_traffic import traffic_during
from embedded_server import EmbeddedServer
from fault_proxy import ANY, FaultProxy
from tfs_deploy.deployment import records
from tfs_deploy.deployment.modes import steps_of
from tfs_deploy.deployment.modes.interface import Deployed
from tfs_deploy.deployment.records import Action
from tfs_deploy.deployment.session import GroupSession, open_session
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.errors import LoadFailed, Transient, ValidationFailed
from tfs_deploy.savedmodel.requests import GoldenRequest, write_golden
from tfs_deploy.serving.group import ServingGroup
from tfs_deploy.serving.rpc_calls import Address
from tfs_deploy.serving.runner import EmbeddedRunner
from tfs_deploy.serving.waiting import WaitLimits
from tfs_deploy.store.open import open_store
from tfs_deploy.traffic.driver import TrafficPlan
from tfs_deploy.traffic.requests import TrafficRequest
from tfs_deploy.validation.config import gates_from

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(3600)]

DEPLOYS = int(os.environ.get("CHAOS_DEPLOYS", "20"))
SEED = int(os.environ.get("CHAOS_SEED", "11"))
SHARE = 0.25
FAULTS = ANY
MODEL = "digits"
SOUND, WRONG, BROKEN = "sound", "wrong", "broken"
X = np.array([[1.0], [2.0], [5.0]], dtype=np.float32)
# A deploy that could not tell is run again, as a scheduler would; a fault of the way never lasts as long as this.
TRIES = 5
# After so many deploys the group goes back and forth once, and retires old versions.
UPKEEP_EVERY = 10


T = TypeVar("T")


@dataclass
class Outcomes:
    """What the deploys ended with: versions by kind, and how often one could not tell."""

    live: list[int] = field(default_factory=list)
    rejected: dict[str, list[int]] = field(default_factory=lambda: {WRONG: [], BROKEN: []})
    could_not_tell: Counter[str] = field(default_factory=Counter)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[GroupSession, tuple[str, ...], list[FaultProxy]]]:
    """Two model servers; the deployer reaches them through proxies, the clients directly."""
    root = tmp_path / "store"
    root.mkdir()
    with ExitStack() as stack:
        servers = [stack.enter_context(EmbeddedServer()) for _ in range(2)]
        proxies = [
            FaultProxy(server.target, share=0.0, seed=SEED + number, kinds=FAULTS)
            for number, server in enumerate(servers)
        ]
        targets = tuple(stack.enter_context(proxy.serve()) for proxy in proxies)
        group = ServingGroup("default", targets, str(root), startup_config=str(tmp_path / "models.config"))
        store = open_store(str(root))
        session = stack.enter_context(open_session(store, group, actor="a test", wait=WaitLimits(load=120.0)))
        yield session, tuple(server.target for server in servers), proxies


def test_no_fault_of_the_way_is_a_verdict_and_no_client_notices(place, shared_models, tmp_path, tell):
    session, direct, proxies = place
    golden = tmp_path / "golden.tfrecord"
    write_golden(golden, MODEL, [GoldenRequest("serving_default", {"x": X}, {"y": X / 2 + 2})])
    gates = gates_from({"golden": {"file": str(golden)}})

    def deploy(directory: Path) -> Deployed:
        return steps_of(session).deploy(session, directory, MODEL, gates, make_runner=EmbeddedRunner)

    outcomes = Outcomes()
    outcomes.live.append(deploy(staged(shared_models, tmp_path, SOUND, 0)).published.version.version)
    for proxy in proxies:
        proxy.share = SHARE
    plan = TrafficPlan(Address(MODEL, label="stable"), direct, rate=50.0, timeout=60.0)
    started = time.monotonic()
    with traffic_during(plan, TrafficRequest("serving_default", {"x": X}, "The request")) as traffic:
        for number, kind in enumerate(kinds(), start=1):
            run_one(deploy, staged(shared_models, tmp_path, kind, number), kind, outcomes, session)
            if number % UPKEEP_EVERY == 0:
                go_back_and_forth(session, outcomes, str(number))
                again(lambda: steps_of(session).retire(session, MODEL, keep=1), outcomes, "retire")
    seconds = time.monotonic() - started
    report = traffic.report
    calls, faults = (sum((getattr(proxy, name) for proxy in proxies), Counter()) for name in ("calls", "faults"))
    tell(
        f"{DEPLOYS} deploys in {seconds:.0f} s, {sum(faults.values())} of {sum(calls.values())} RPCs failed, "
        f"could not tell: {dict(outcomes.could_not_tell)}; {report.total.requests} requests, p99 "
        f"{report.total.latency.p99_ms:.0f} ms, {report.total.failed} failed"
    )
    # No failed request, and every answer from a version that passed.
    assert report.ended_early == ""
    assert report.total.failures == {}, report.errors
    assert {version.version for version in report.total.versions} <= set(outcomes.live)
    # What the record says is what happened: every bad version rejected, no sound one.
    history = records.history(session.store.documents, "default", MODEL)
    assert {entry.version for entry in history if entry.action is Action.PROMOTED} == set(outcomes.live)
    rejected = {entry.version for entry in history if entry.action is Action.REJECTED}
    assert rejected == {version for versions in outcomes.rejected.values() for version in versions}
    assert len(outcomes.live) == 1 + kinds().count(SOUND)
    assert sum(faults.values()) > DEPLOYS


def kinds() -> list[str]:
    """Return what to deploy: three of ten are bad, in a fixed order."""
    bad = [WRONG, BROKEN] * DEPLOYS
    count = round(DEPLOYS * 0.3)
    order = bad[:count] + [SOUND] * (DEPLOYS - count)
    random.Random(SEED).shuffle(order)
    return order


def run_one(
    deploy: Callable[[Path], Deployed], directory: Path, kind: str, outcomes: Outcomes, session: GroupSession
) -> None:
    """Deploy one version until it is decided, and check the decision."""
    if kind == SOUND:
        done = again(lambda: deploy(directory), outcomes, kind)
        outcomes.live.append(done.published.version.version)
        return
    with pytest.raises(ValidationFailed if kind == WRONG else LoadFailed) as failure:
        again(lambda: deploy(directory), outcomes, kind)
    assert not isinstance(failure.value, Transient)
    history = records.history(session.store.documents, "default", MODEL)
    outcomes.rejected[kind].append(
        next(entry.version for entry in reversed(history) if entry.action is Action.REJECTED)
    )


def go_back_and_forth(session: GroupSession, outcomes: Outcomes, name: str) -> None:
    """Roll back twice, each as one request that may be sent again."""
    for version in (outcomes.live[-2], outcomes.live[-1]):
        key = f"{name} to {version}"
        done = again(lambda key=key: rollback(session, MODEL, idempotency_key=key), outcomes, "rollback")
        assert done.version == version


def again(step: Callable[[], T], outcomes: Outcomes, kind: str) -> T:
    for _ in range(TRIES):
        try:
            return step()
        except Transient as error:
            outcomes.could_not_tell[f"{kind}: {type(error).__name__}"] += 1
            last = error
    raise AssertionError(f"{kind}: {TRIES} tries could not tell") from last


def staged(models: Path, folder: Path, kind: str, number: int) -> Path:
    """Return a SavedModel of its own fingerprint: sound, with wrong answers, or with damaged weights."""
    name = "half_plus_three/00000123" if kind == WRONG else "half_plus_two_2_versions/00000123"
    directory = Path(shutil.copytree(models / name, folder / "staged" / str(number)))
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (directory / "assets.extra").mkdir()
    (directory / "assets.extra" / "number.txt").write_text(str(number))
    if kind == BROKEN:
        weights = directory / "variables" / "variables.index"
        weights.write_bytes(weights.read_bytes()[::-1])
    return directory
