"""The manager as a state machine: no threads, no TensorFlow (contract 4)."""

from __future__ import annotations

import threading
import time

import pytest

from modelserver.world import World
from tfs_deploy.modelserver.lifecycle.manager import Action, InlineExecutor, Phase, Snapshot, first_action, next_action
from tfs_deploy.modelserver.lifecycle.monitor import Event, EventBus, Monitor, ServableId, State
from tfs_deploy.modelserver.status import Code


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
    loading.join(30)
    assert world.states("other") == {1: State.AVAILABLE}


def test_a_fresh_monitor_sees_nothing_of_the_past():
    bus = EventBus()
    bus.publish(Event(ServableId("m", 1), State.END, Code.NOT_FOUND, "old"))
    monitor = Monitor(bus)
    settled = []
    waiting = threading.Thread(target=lambda: settled.extend(monitor.wait_for_outcomes(["m"])))
    waiting.start()
    bus.publish(Event(ServableId("m", 1), State.LOADING))
    assert not settled
    bus.publish(Event(ServableId("m", 1), State.AVAILABLE))
    waiting.join(30)
    assert [event.state for event in settled] == [State.AVAILABLE]


def test_a_version_that_settled_and_went_on_still_counts_for_who_waited_then():
    """The moment decides in which the last model settles, not the one in which the waiting thread comes to run."""
    bus = EventBus()
    monitor = Monitor(bus)
    settled = []
    waiting = threading.Thread(target=lambda: settled.extend(monitor.wait_for_outcomes(["a", "b"])))
    waiting.start()
    while not monitor._waits:
        time.sleep(0.001)
    one = ServableId("a", 1)
    bus.publish(Event(one, State.AVAILABLE))
    bus.publish(Event(one, State.UNLOADING))
    bus.publish(Event(ServableId("b", 1), State.AVAILABLE))
    waiting.join(0.1)
    assert waiting.is_alive()  # a is neither AVAILABLE nor at its END now
    with monitor._changed:  # the waiting thread cannot look between these two
        monitor._observe(Event(one, State.AVAILABLE))
        monitor._observe(Event(one, State.UNLOADING))
    waiting.join(30)
    assert [(event.id.name, event.state) for event in settled] == [("a", State.AVAILABLE), ("b", State.AVAILABLE)]


def test_a_new_executor_waits_for_the_loads_of_the_old_one():
    world = World()
    world.aspire(1, 2)
    world.manager.tick()
    replacing = threading.Thread(target=lambda: world.manager.use_load_executor(InlineExecutor()))
    replacing.start()
    replacing.join(0.1)
    assert replacing.is_alive()
    ticking = threading.Thread(target=world.manager.tick)
    ticking.start()
    ticking.join(0.1)
    assert ticking.is_alive()  # with the next load, which has to wait too
    world.loads.run()
    for thread in (replacing, ticking):
        thread.join(30)
    assert world.states() == {2: State.AVAILABLE, 1: State.AVAILABLE}
    assert not world.loads.waiting
