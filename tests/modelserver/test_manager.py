"""The manager as a state machine: no threads, no TensorFlow (contract 4)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tfs_deploy.modelserver.manager import InlineExecutor, Manager, RetryOptions
from tfs_deploy.modelserver.monitor import Event, EventBus, Monitor, ServableId, State
from tfs_deploy.modelserver.policy import Action, Phase, Snapshot, first_action, next_action
from tfs_deploy.modelserver.serving_map import ServingMap
from tfs_deploy.modelserver.source import VersionPath
from tfs_deploy.modelserver.status import Code, StatusError


class Jobs:
    """An executor whose jobs run when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def submit(self, job, /, *args) -> None:
        self.waiting.append(lambda: job(*args))

    def run(self, index: int = 0) -> None:
        self.waiting.pop(index)()


@dataclass
class HandClock:
    """A clock that only a sleep moves; `during_sleep` happens meanwhile."""

    slept: list[float] = field(default_factory=list)
    during_sleep: Callable[[], None] = lambda: None

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=timezone.utc)

    def monotonic(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.during_sleep()


class World:
    """A manager with everything around it in the test's hand."""

    def __init__(self, *, retries: int = 0, inline: bool = False) -> None:
        self.bad: set[tuple[str, int]] = set()
        self.attempts: list[ServableId] = []
        self.unloaded: list[ServableId] = []
        self.events: list[Event] = []
        self.clock = HandClock()
        self.map: ServingMap[str] = ServingMap()
        self.loads, self.unloads = Jobs(), Jobs()
        bus = EventBus()
        bus.subscribe(self.events.append)
        self.monitor = Monitor(bus)
        self.manager: Manager[str] = Manager(
            bus=bus,
            serving_map=self.map,
            loader_of=lambda id_, path: FakeLoader(self, id_),
            clock=self.clock,
            retry=RetryOptions(retries, 7.0),
            load_executor=InlineExecutor() if inline else self.loads,
            unload_executor=InlineExecutor() if inline else self.unloads,
        )

    def aspire(self, *versions: int, name: str = "m") -> None:
        self.manager.set_aspired(name, [VersionPath(version, f"/{name}/{version}") for version in versions])

    def settle(self, ticks: int = 30) -> None:
        for _ in range(ticks):
            self.manager.tick()
            for jobs in (self.loads, self.unloads):
                while jobs.waiting:
                    jobs.run()

    def states(self, name: str = "m") -> dict[int, State]:
        return {event.id.version: event.state for event in self.monitor.versions(name)}

    def history(self, version: int, name: str = "m") -> list[State]:
        return [event.state for event in self.events if event.id == ServableId(name, version)]

    def answers(self, name: str = "m", version: int | None = None) -> int | None:
        try:
            with self.map.lease(name, version) as (number, _):
                return number
        except StatusError:
            return None


@dataclass
class FakeLoader:
    world: World
    id: ServableId

    def estimate(self) -> None:
        pass

    def load(self) -> str:
        self.world.attempts.append(self.id)
        if (self.id.name, self.id.version) in self.world.bad:
            raise StatusError(Code.NOT_FOUND, f"{self.id} is broken")
        return str(self.id)

    def unload(self) -> None:
        self.world.unloaded.append(self.id)


def test_load_before_unload():
    world = World()
    world.aspire(1)
    world.settle()
    world.aspire(2)
    world.manager.tick()
    assert world.answers() == 1
    world.loads.run()
    assert world.answers() == 2
    world.settle()
    whole = [State.START, State.LOADING, State.AVAILABLE]
    assert world.history(2) == whole
    assert world.history(1) == [*whole, State.UNLOADING, State.END]
    assert world.unloaded == [ServableId("m", 1)]


def test_one_load_per_tick_the_highest_first():
    world = World()
    world.aspire(1, 3, 2)
    started = []
    for _ in range(3):
        world.manager.tick()
        started.append(len(world.loads.waiting))
    assert started == [1, 2, 3]
    world.settle()
    assert [id_.version for id_ in world.attempts] == [3, 2, 1]


def test_retries_show_loading_and_then_the_cause():
    world = World(retries=2)
    world.bad.add(("m", 1))
    world.aspire(1)
    world.manager.tick()
    seen = []
    world.clock.during_sleep = lambda: seen.append(world.monitor.version(ServableId("m", 1)))
    world.loads.run()
    assert world.clock.slept == [7.0, 7.0]
    assert [(event.state, event.code) for event in seen] == [(State.LOADING, Code.OK)] * 2
    last = world.monitor.version(ServableId("m", 1))
    assert (last.state, last.code, last.message) == (State.END, Code.NOT_FOUND, "{name: m version: 1} is broken")


def test_repaired_while_retries_run():
    world = World(retries=2)
    world.bad.add(("m", 1))
    world.aspire(1)
    world.manager.tick()
    world.clock.during_sleep = world.bad.clear
    world.loads.run()
    assert world.states() == {1: State.AVAILABLE}


def test_a_failed_number_is_not_tried_again_while_aspired():
    world = World()
    world.bad.add(("m", 1))
    world.aspire(1)
    world.settle()
    world.bad.clear()
    world.aspire(1)
    world.settle()
    assert len(world.attempts) == 1
    world.aspire()
    world.settle()
    world.aspire(1)
    world.settle()
    assert world.states() == {1: State.AVAILABLE}


@pytest.mark.parametrize(
    ("broken", "code"), [(True, Code.NOT_FOUND), (False, Code.CANCELLED)], ids=["still broken", "good by then"]
)
def test_un_aspired_during_retries_one_more_attempt_at_most(broken, code):
    world = World(retries=9)
    world.bad.add(("m", 1))
    world.aspire(1)
    world.manager.tick()

    def un_aspire() -> None:
        world.aspire()
        world.manager.tick()
        if not broken:
            world.bad.clear()

    world.clock.during_sleep = un_aspire
    world.loads.run()
    assert len(world.attempts) == 2
    last = world.monitor.version(ServableId("m", 1))
    assert (last.state, last.code) == (State.END, code)
    assert world.answers() is None
    assert State.AVAILABLE not in world.history(1)


def test_inline_loads_block_the_tick_and_cannot_be_cancelled():
    world = World(retries=2, inline=True)
    world.bad.add(("m", 1))
    world.aspire(1)
    world.clock.during_sleep = world.aspire
    world.manager.tick()
    assert len(world.attempts) == 3
    assert world.states() == {1: State.END}


def test_un_aspired_before_its_load_stays_start_for_ever():
    world = World()
    world.aspire(1, 2)
    world.manager.tick()
    world.aspire(2)
    world.settle()
    assert world.states() == {2: State.AVAILABLE, 1: State.START}
    assert world.attempts == [ServableId("m", 2)]


def test_a_pending_request_is_overwritten():
    world = World()
    world.aspire(1)
    world.settle()
    world.aspire()
    world.aspire(1)
    world.settle()
    assert world.history(1) == [State.START, State.LOADING, State.AVAILABLE]


def test_wedge_without_overlap_and_the_way_out():
    world = World()
    world.bad.add(("m", 2))
    world.aspire(1)
    world.settle()
    world.aspire(2)
    world.settle()
    for wanted in ((1,), (1, 3)):
        world.aspire(*wanted)
        world.settle()
        assert world.states() == {2: State.END, 1: State.AVAILABLE}
    world.aspire(3)
    world.settle()
    assert world.states() == {3: State.AVAILABLE, 2: State.END, 1: State.END}


def test_overlap_has_no_wedge():
    world = World()
    world.bad.add(("m", 2))
    for wanted in ((1,), (1, 2), (1,)):
        world.aspire(*wanted)
        world.settle()
    world.bad.clear()
    world.aspire(1, 2)
    world.settle()
    assert world.states() == {2: State.AVAILABLE, 1: State.AVAILABLE}


def test_a_duplicate_number_is_rejected():
    world = World()
    world.aspire(1, 1)
    world.settle()
    assert world.history(1) == [State.START, State.LOADING, State.AVAILABLE]


def test_unloads_before_loads_over_all_models():
    ready = [Snapshot(1, Phase.READY, aspired=False)]
    new = [Snapshot(1, Phase.NEW, aspired=True)]
    assert first_action({"a": new, "b": ready}) == ("b", Action(unload=True, version=1))
    assert first_action({"a": new, "b": new}) == ("a", Action(unload=False, version=1))
    assert first_action({"a": []}) is None


def test_all_but_the_highest_go_while_the_replacement_loads():
    rows = [Snapshot(v, Phase.READY, aspired=False) for v in (1, 2, 3)] + [Snapshot(4, Phase.LOADING, aspired=True)]
    assert next_action(rows) == Action(unload=True, version=1)
    assert next_action(rows[2:]) is None
    # An aspired version in error is not ready: the last one that serves stays.
    assert next_action([rows[2], Snapshot(4, Phase.ERROR, aspired=True)]) is None


def test_a_request_in_flight_holds_the_swap_of_every_model():
    world = World()
    world.aspire(1)
    world.settle()
    with world.map.lease("m", None):
        world.aspire(1, name="other")
        world.manager.tick()
        loading = threading.Thread(target=world.loads.run)
        loading.start()
        deadline = threading.Event()
        while world.answers("other") is None and not deadline.wait(0.01):
            pass
        assert world.answers("other") == 1
        assert world.states("other") == {1: State.LOADING}
    loading.join(5)
    assert world.states("other") == {1: State.AVAILABLE}


def test_a_fresh_monitor_sees_nothing_of_the_past():
    bus = EventBus()
    bus.publish(Event(ServableId("m", 1), State.END, Code.NOT_FOUND, "old"))
    monitor = Monitor(bus)
    settled = []
    waiting = threading.Thread(target=lambda: settled.extend(monitor.wait_until_settled(["m"])))
    waiting.start()
    bus.publish(Event(ServableId("m", 1), State.LOADING))
    assert not settled
    bus.publish(Event(ServableId("m", 1), State.AVAILABLE))
    waiting.join(5)
    assert [event.state for event in settled] == [State.AVAILABLE]


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
