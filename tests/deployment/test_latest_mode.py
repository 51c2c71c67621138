"""A group that serves the latest version by itself: what its record says, and what is never taken from under it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from deployment.fuse import Fuse, Killed, fused
from deployment_names import MODEL
from fakes import FakeClient, FakeModelServer
from tfs_deploy.deployment import records
from tfs_deploy.deployment.modes import latest
from tfs_deploy.deployment.records import Action, history, version_at
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import NotFound, Refused
from tfs_deploy.serving.codec import messages
from tfs_deploy.serving.config import ModelEntry, to_proto
from tfs_deploy.serving.group import Mode
from tfs_deploy.validation.config import Gates


class FakeRunner:
    """Serves a directory on a model server in memory."""

    def __init__(self, discover: Callable[[Path], Any]) -> None:
        self._discover = discover
        self.server = FakeModelServer("throw-away:8500")

    @contextmanager
    def serve(self, directory: Path, model: str, version: int) -> Iterator[str]:
        self.server = FakeModelServer("throw-away:8500")
        self.server.put(f"/throw-away/{model}", version, self._discover(Path(directory)))
        entry = ModelEntry(model, f"/throw-away/{model}", (version,), {})
        FakeClient(self.server).reload(to_proto([entry]), timeout=1.0)
        yield self.server.target


@dataclass
class LatestGroup:
    """Two replicas that look at the store's directory each time somebody waits."""

    bench: Any
    runner: FakeRunner

    @property
    def session(self) -> GroupSession:
        return self.bench.session

    def deploy(self, behaviour: str, session: GroupSession | None = None) -> int:
        session, staged = session or self.session, self.bench.staged(behaviour)
        done = latest.deploy(session, staged, MODEL, Gates(), make_runner=lambda: self.runner)
        return done.published.version.version

    def live(self) -> list[int]:
        """Return what answers a client that names no version, per replica."""
        rows = [FakeClient(server).status(MODEL, timeout=1.0) for server in self.bench.servers]
        return [max(row.version for row in found if row.state.value == "AVAILABLE") for found in rows]

    def moves(self) -> list[tuple[str, int, int | None]]:
        moved = (Action.PROMOTED, Action.ROLLED_BACK, Action.PUT_BACK)
        entries = history(self.bench.store.documents, "default", MODEL)
        return [(each.action.value, each.version, each.previous) for each in entries if each.action in moved]

    def recorded_live(self) -> int | None:
        return version_at(self.bench.store.documents, "default", MODEL, self.bench.clock.now()).version


@pytest.fixture(params=[1, 2], ids=["latest-1", "latest-2"])
def group(request, make, tmp_path, monkeypatch) -> LatestGroup:
    """Return a group whose servers keep the highest one or two versions."""
    return make_group(make(tmp_path, mode=Mode.LATEST), monkeypatch, keep=request.param)


def make_group(bench: Any, monkeypatch: pytest.MonkeyPatch, *, keep: int) -> LatestGroup:
    base = bench.folder / "store" / MODEL
    base.mkdir()
    for server in bench.servers:
        server.config = messages.ModelServerConfig()
        entry = server.config.model_config_list.config.add(name=MODEL, base_path=str(base), model_platform="tensorflow")
        entry.model_version_policy.latest.num_versions = keep

    def look() -> None:
        for server in bench.servers:
            server.tick()

    bench.clock._on_sleep = look
    runner = FakeRunner(bench.servers[0]._discover)
    monkeypatch.setattr("tfs_deploy.deployment.offline_validation.connect", lambda target: FakeClient(runner.server))
    return LatestGroup(bench, runner)


def killed_before(session: GroupSession, method: str) -> GroupSession:
    """Let the deployer die before the store's `method`, or before a document is deleted if that is ``delete``."""

    class Documents:
        def __getattr__(self, name: str) -> Any:
            if name == method:
                raise Killed
            return getattr(session.store.documents, name)

    class Store:
        documents = Documents()

        def __getattr__(self, name: str) -> Any:
            if name == method:
                raise Killed
            return getattr(session.store, name)

    return replace(session, store=Store())


def test_a_deploy_that_is_run_again_is_recorded_once(group):
    assert [group.deploy("good 1"), group.deploy("good 2"), group.deploy("good 2")] == [1, 2, 2]
    assert group.moves() == [("promoted", 1, None), ("promoted", 2, 1)]


def test_the_bytes_of_an_older_version_are_refused_before_anything_is_done(group):
    group.deploy("good 1")
    group.deploy("good 2")
    with pytest.raises(Refused, match=r"These bytes are version 1 .* which is version 2"):
        group.deploy("good 1")
    assert group.bench.store.versions(MODEL) == (1, 2), "what a rollback needs is still there"
    assert group.live() == [2, 2]
    assert group.recorded_live() == 2


def test_nothing_is_published_where_that_moves_traffic(group):
    with pytest.raises(Refused, match="publishing is going live"):
        latest.publish(group.session, group.bench.staged("wrong"), MODEL)
    assert group.bench.store.versions(MODEL) == ()


def test_a_rollback_that_was_begun_and_given_up_does_not_stand_in_the_way_of_the_next(group):
    group.deploy("good 1")
    group.deploy("good 2")
    with pytest.raises(Killed):
        latest.rollback(killed_before(group.session, "withdraw"), MODEL)
    group.bench.clock.advance(60)
    assert group.deploy("good 3") == 3
    assert latest.rollback(group.session, MODEL).version == 2
    assert group.live() == [2, 2]
    assert group.recorded_live() == 2


def test_a_rollback_that_was_killed_at_its_very_end_goes_back_once(group):
    group.deploy("good 1")
    group.deploy("good 2")
    group.deploy("good 3")
    with pytest.raises(Killed):
        latest.rollback(killed_before(group.session, "delete"), MODEL)
    group.bench.clock.advance(60)
    assert latest.rollback(group.session, MODEL).version == 2
    assert group.live() == [2, 2]
    assert group.moves()[-1] == ("rolled_back", 2, 3)
    assert latest.rollback(group.session, MODEL).version == 1, "that was another one"
    assert group.moves()[-2:] == [("rolled_back", 2, 3), ("rolled_back", 1, 2)]


def test_another_request_after_a_rollback_that_was_killed_at_its_very_end_goes_on_from_there(group):
    for number in range(1, 4):
        group.deploy(f"good {number}")
    with pytest.raises(Killed):
        latest.rollback(killed_before(group.session, "delete"), MODEL, idempotency_key="run 7")
    group.bench.clock.advance(60)
    assert latest.rollback(group.session, MODEL, idempotency_key="run 8").version == 1
    assert group.moves()[-2:] == [("rolled_back", 2, 3), ("rolled_back", 1, 2)]


def test_a_retry_beside_its_living_first_try_goes_back_once(group):
    for number in range(1, 4):
        group.deploy(f"good {number}")
    first = []

    class Documents:
        def __getattr__(self, name: str) -> Any:
            return getattr(group.bench.store.documents, name)

        def read(self, key: str) -> Any:
            if "/leases/" in key and not first:
                first.append(None)
                first[0] = latest.rollback(group.session, MODEL, idempotency_key="run 7")
            return group.bench.store.documents.read(key)

    class Store:
        documents = Documents()

        def __getattr__(self, name: str) -> Any:
            return getattr(group.bench.store, name)

    retry = replace(group.session, store=Store())
    assert latest.rollback(retry, MODEL, idempotency_key="run 7") == first[0]
    assert group.live() == [2, 2]


def test_a_live_version_that_is_taken_away_is_live_no_more_by_the_record(group):
    group.deploy("good 1")
    group.deploy("good 2")
    latest.reject(group.session, MODEL, 2, reason="it is too slow")
    assert group.live() == [1, 1]
    assert group.recorded_live() == 1
    assert group.moves()[-1] == ("put_back", 1, 2)


def test_a_group_with_labels_that_is_said_to_have_none_keeps_what_is_live(bench):
    old, live = bench.promoted("good one"), bench.promoted("good two")
    mistaken = replace(bench.session, group=replace(bench.group, mode=Mode.LATEST))
    runner = FakeRunner(bench.servers[0]._discover)
    for change in (
        lambda: latest.rollback(mistaken, MODEL),
        lambda: latest.reject(mistaken, MODEL, live, reason="a mistake"),
        lambda: latest.deploy(mistaken, bench.staged("good three"), MODEL, Gates(), make_runner=lambda: runner),
    ):
        with pytest.raises(Refused, match="by labels"):
            change()
    assert bench.store.versions(MODEL) == (old, live)
    assert bench.answers() == [live, live]


def test_what_another_group_holds_is_not_taken_back(group):
    group.deploy("good 1")
    group.deploy("good 2")
    other = replace(group.session, group=replace(group.session.group, name="other"))
    records.append(group.bench.store.documents, records.new_record(other, MODEL, Action.PROMOTED, 2))
    with pytest.raises(Refused, match="held by group 'other'"):
        latest.rollback(group.session, MODEL)
    with pytest.raises(Refused, match="held by group 'other'"):
        latest.reject(group.session, MODEL, 2, reason="it is too slow")
    assert group.live() == [2, 2]


def test_there_is_nothing_below_the_first_version(group):
    group.deploy("good 1")
    with pytest.raises(NotFound, match="no version below"):
        latest.rollback(group.session, MODEL)


def deploy_good(group: LatestGroup, session: GroupSession) -> None:
    group.deploy("good 4", session)


def roll_back(group: LatestGroup, session: GroupSession) -> None:
    latest.rollback(session, MODEL, idempotency_key="run 7")


def take_away(group: LatestGroup, session: GroupSession) -> None:
    latest.reject(session, MODEL, 3, reason="it is too slow")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("scenario", "move"),
    [(deploy_good, ("promoted", 4, 3)), (roll_back, ("rolled_back", 2, 3)), (take_away, ("put_back", 2, 3))],
)
def test_killed_before_any_operation_a_plain_rerun_converges(make, tmp_path, monkeypatch, tell, scenario, move):
    # Processes die here, not machines: what was written is there, so syncing would only cost time.
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    before = [("promoted", 1, None), ("promoted", 2, 1), ("promoted", 3, 2)]
    for at in range(500):
        (tmp_path / str(at)).mkdir()
        group = make_group(make(tmp_path / str(at), mode=Mode.LATEST), monkeypatch, keep=1)
        for number in range(1, 4):
            group.deploy(f"good {number}")
        assert group.moves() == before
        try:
            scenario(group, fused(group.session, Fuse(at, group.live)))
        except Killed:
            group.bench.clock.advance(60)
            scenario(group, fused(group.session, Fuse(10_000, group.live)))
            killed = True
        else:
            killed = False
        assert group.moves() == [*before, move]
        assert group.live() == [move[1]] * 2
        assert group.recorded_live() == move[1]
        assert group.bench.store.documents.list("groups/default/going_back/") == ()
        if not killed:
            break
    else:
        pytest.fail("the scenario never ended")
    assert at > 10, "the fuse was not in the way of the step"
    tell(f"{scenario.__name__} of a group in mode latest: killed before {at} operations, 0 violations")
