"""The decision of an agent, apart from files, store and clock: any history, and what must hold at each moment."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tfs_deploy.deployment.desired_state import DesiredModel, DesiredState, LabelMove
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.sync.plan import DiskView, RequiredVersions, VersionName, plan
from tfs_deploy.sync.required_versions import required_by

MODELS = ("a", "b")
NAMES = st.builds(VersionName, st.sampled_from(MODELS), st.integers(1, 6))
NAME_SETS = st.frozensets(NAMES, max_size=8)


@st.composite
def views(draw: st.DrawFn) -> DiskView:
    shown = draw(NAME_SETS)
    ours = frozenset(draw(st.sets(st.sampled_from(sorted(shown)))) if shown else ())
    held = frozenset(draw(st.sets(st.sampled_from(sorted(ours)))) if ours else ())
    folders = {name.model for name in shown} | draw(st.sets(st.sampled_from(MODELS)))
    return DiskView(frozenset(folders), shown, ours, held, draw(NAME_SETS))


@st.composite
def needs(draw: st.DrawFn) -> RequiredVersions:
    versions = tuple(draw(st.permutations(sorted(draw(NAME_SETS)))))
    highest = {}
    if draw(st.booleans()):
        versions = tuple({name.model: name for name in versions}.values())
        highest = {name.model: name.version for name in versions}
    return RequiredVersions(tuple(sorted({name.model for name in versions})), versions, highest)


@given(needs(), views(), st.integers(0, 3), NAME_SETS)
@settings(max_examples=500)
def test_what_is_planned_is_never_wrong(
    need: RequiredVersions, disk: DiskView, keep: int, expired: frozenset[VersionName]
) -> None:
    todo = plan(need, disk, keep=keep, expired=expired)
    needed = set(need.versions)
    assert not set(todo.remove) & needed, "nothing needed is removed (I5)"
    assert set(todo.remove) <= disk.ours, "nothing that somebody else put there is removed"
    assert not set(todo.download) & disk.shown, "no number is written over"
    assert set(todo.download) == needed - disk.shown
    assert list(todo.download) == [name for name in need.versions if name in set(todo.download)], "most urgent first"
    assert not set(todo.discard) & set(todo.download), "what is on its way stays"
    assert set(todo.make_folders) == set(need.models) - disk.folders
    for name in todo.remove:
        if name.version > need.highest.get(name.model, 2**63):
            assert VersionName(name.model, need.highest[name.model]) in disk.held, "the successor is there first"
        else:
            assert name in expired
            assert {other for other in needed if other.model == name.model} <= disk.held, "overlap always"
    for model in MODELS:
        spare = {name for name in disk.ours - needed if name.model == model}
        spare -= {name for name in spare if name.version > need.highest.get(model, 2**63)}
        kept = spare - set(todo.remove)
        assert len(kept) >= min(keep, len(spare)), "the newest ones stay"
        assert not [name for name in sorted(spare, reverse=True)[:keep] if name in todo.remove]


@given(needs(), views(), st.integers(0, 3))
def test_done_is_done(need: RequiredVersions, disk: DiskView, keep: int) -> None:
    """A plan that was carried out leaves nothing to plan, but for what somebody else's numbers stand in the way of."""
    todo = plan(need, disk, keep=keep, expired=disk.ours)
    after = carried_out(todo, disk)
    again = plan(need, after, keep=keep, expired=after.ours)
    taken_back = plan(need, carried_out(again, after), keep=keep, expired=after.ours)
    assert (again.make_folders, again.download, again.discard) == ((), (), ())
    # A version that is taken back waits for its successor, which the first plan has brought.
    assert taken_back.remove == ()


def carried_out(todo, disk: DiskView) -> DiskView:
    brought, removed = set(todo.download), set(todo.remove)
    return DiskView(
        disk.folders | set(todo.make_folders),
        (disk.shown | brought) - removed,
        (disk.ours | brought) - removed,
        (disk.held | brought) - removed,
        disk.staged - set(todo.discard) - brought,
    )


class History(RuleBasedStateMachine):
    """Deploys, rollbacks, retirements, crashes and strangers, with an agent that acts whenever it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.state = DesiredState()
        self.disk = DiskView()
        self.published = 0
        self.strange: set[VersionName] = set()
        self.unneeded: dict[VersionName, int] = {}
        self.passes = 0

    @property
    def model(self) -> DesiredModel:
        return self.state.models.get("a") or DesiredModel("/models/a", ())

    @rule()
    def publish_and_load(self) -> None:
        self.published += 1
        self.state = self.state.with_model("a", self.model.with_versions(self.published))

    @precondition(lambda self: self.model.versions)
    @rule(data=st.data())
    def begin_to_move(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(self.model.versions))
        labels = {"stable": version, **({"previous": self.model.labels["stable"]} if self.model.labels else {})}
        record = DeploymentRecord(0, "now", "default", "a", Action.PROMOTED, version, "who")
        self.state = self.state.with_model("a", replace(self.model, move=LabelMove(labels, record)))

    @precondition(lambda self: self.model.move)
    @rule(done=st.booleans())
    def end_to_move(self, done: bool) -> None:
        labels = self.model.move.labels if done else self.model.labels
        self.state = self.state.with_model("a", replace(self.model, labels=labels, move=None))

    @precondition(lambda self: self.model.move is None)
    @rule()
    def retire(self) -> None:
        labelled = set(self.model.labels.values())
        left = self.model.without(*(version for version in self.model.versions if version not in labelled))
        self.state = self.state.with_model("a", left if left.versions else None)

    @rule()
    def another_tool_takes_the_next_number(self) -> None:
        name = VersionName("a", self.published + 1)
        self.disk = replace(self.disk, folders=self.disk.folders | {"a"}, shown=self.disk.shown | {name})
        self.strange.add(name)

    @rule(keep=st.integers(0, 2), crash=st.integers(0, 4))
    def a_pass(self, keep: int, crash: int) -> None:
        """Carry out the plan up to the point of a crash; a bring that is cut off leaves its stage."""
        self.passes += 1
        need = required_by(self.state)
        self.unneeded = {n: self.unneeded.get(n, self.passes) for n in self.disk.ours - set(need.versions)}
        expired = {name for name, since in self.unneeded.items() if since < self.passes}
        todo = plan(need, self.disk, keep=keep, expired=expired)
        self.disk = replace(self.disk, folders=self.disk.folders | set(todo.make_folders))
        for index, name in enumerate(todo.download):
            if index == crash:
                self.disk = replace(self.disk, staged=self.disk.staged | {name})
                return
            assert name.model in self.disk.folders
            one = frozenset({name})
            disk = self.disk
            self.disk = replace(disk, shown=disk.shown | one, ours=disk.ours | one, held=disk.held | one)
        disk, gone = self.disk, set(todo.remove)
        self.disk = DiskView(disk.folders, disk.shown - gone, disk.ours - gone, disk.held - gone, frozenset())
        labelled = {VersionName("a", version) for version in self.model.labels.values()}
        moving = self.model.move.labels.values() if self.model.move else ()
        assert labelled | {VersionName("a", version) for version in moving} <= self.disk.shown

    @invariant()
    def versions_of_other_tools_stay(self) -> None:
        assert self.strange <= self.disk.shown

    @invariant()
    def versions_of_other_tools_are_never_ours(self) -> None:
        assert not self.disk.ours & self.strange


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_the_most_urgent_comes_first() -> None:
    a = DesiredModel("/models/a", (1, 2, 3, 9), {"stable": 2, "previous": 1, "canary": 3})
    b = DesiredModel("/models/b", (7,), {"stable": 7})
    record = DeploymentRecord(0, "now", "default", "a", Action.PROMOTED, 9, "who")
    moving_a = replace(a, move=LabelMove({"stable": 9, "previous": 2}, record))
    calm = required_by(DesiredState(models={"a": a, "b": b}))
    assert [tuple(name) for name in calm.versions] == [("b", 7), ("a", 2), ("a", 1), ("a", 3), ("a", 9)]
    moving = required_by(DesiredState(models={"a": moving_a, "b": b}))
    assert {("a", 9), ("a", 2), ("b", 7)} == {tuple(name) for name in moving.versions[:3]}
    assert set(moving.versions) == set(calm.versions)
