"""Random histories of directory, config and failure events against a simple model of contract 4."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelserver.world import World
from tfs_deploy.modelserver.lifecycle.manager import Phase
from tfs_deploy.modelserver.lifecycle.monitor import ServableId, State

NAMES = st.sampled_from(["a", "b"])
NUMBERS = st.integers(1, 4)


class Histories(RuleBasedStateMachine):
    """Random directories, configs, failures and thread schedules, against what section 4 promises."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.ready: dict[str, set[int]] = {"a": set(), "b": set()}

    @rule(name=NAMES, versions=st.sets(NUMBERS, max_size=3))
    def poll(self, name, versions):
        self.world.aspire(*sorted(versions), name=name)

    @rule(name=NAMES, version=NUMBERS, broken=st.booleans())
    def replace_files(self, name, version, broken):
        (self.world.bad.add if broken else self.world.bad.discard)((name, version))

    @rule()
    def tick(self):
        before = len(self.world.loads.waiting) + len(self.world.unloads.waiting)
        self.world.manager.tick()
        assert len(self.world.loads.waiting) + len(self.world.unloads.waiting) <= before + 1

    @precondition(lambda self: self.world.loads.waiting)
    @rule(data=st.data())
    def finish_a_load(self, data):
        self.world.loads.run(data.draw(st.integers(0, len(self.world.loads.waiting) - 1)))

    @precondition(lambda self: self.world.unloads.waiting)
    @rule(data=st.data())
    def finish_an_unload(self, data):
        self.world.unloads.run(data.draw(st.integers(0, len(self.world.unloads.waiting) - 1)))

    @invariant()
    def rows_never_disappear_and_move_only_along_the_life_cycle(self):
        allowed = {
            State.START: {None, State.END, State.START},
            State.LOADING: {State.START},
            State.AVAILABLE: {State.LOADING},
            State.UNLOADING: {State.AVAILABLE},
            State.END: {State.LOADING, State.UNLOADING, State.START},
        }
        latest: dict[ServableId, State] = {}
        for event in self.world.events:
            assert latest.get(event.id) in allowed[event.state], (latest.get(event.id), event)
            latest[event.id] = event.state
        for id_, state in latest.items():
            assert self.world.monitor.version(id_).state is state

    @invariant()
    def the_highest_ready_version_answers(self):
        # A version whose unload was ordered may be out of the map before its row says so, as in TF Serving.
        for name in ("a", "b"):
            ready = {row.version for row in self.world.manager.snapshots(name) if row.phase is Phase.READY}
            available = {v for v, state in self.world.states(name).items() if state is State.AVAILABLE}
            answering = {version for version in range(1, 5) if self.world.answers(name, version) is not None}
            assert ready <= answering <= available
            assert self.world.answers(name) == max(answering, default=None)

    @invariant()
    def the_last_ready_version_goes_only_when_nothing_is_aspired(self):
        for name in ("a", "b"):
            snapshots = self.world.manager.snapshots(name)
            ready = {row.version for row in snapshots if row.phase is Phase.READY}
            aspired = {row.version for row in snapshots if row.aspired}
            if self.ready[name] and not ready:
                assert not aspired, snapshots
            self.ready[name] = ready

    @invariant()
    def a_failed_number_is_not_tried_again_while_it_stays_aspired(self):
        tries: dict[ServableId, int] = {}
        for event in self.world.events:
            if event.state is State.START:
                tries[event.id] = 0
            elif event.state is State.LOADING:
                tries[event.id] += 1
                assert tries[event.id] == 1, event

    def teardown(self):
        """Left alone with new, good numbers, every model comes to serve exactly what is aspired."""
        self.world.bad.clear()
        for name in ("a", "b"):
            self.world.aspire(9, name=name)
        self.world.settle(80)
        for name in ("a", "b"):
            states = self.world.states(name)
            assert [v for v, state in states.items() if state is State.AVAILABLE] == [9]
            assert not [v for v, s in states.items() if s in (State.LOADING, State.UNLOADING)]


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
