"""The balancer as a state machine, and what it prefers."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tfs_deploy.gateway.upstream.replica import FLOOR_SECONDS, Load, choose


@dataclass(eq=False)
class Candidate:
    load: Load


def places(count: int) -> list[Candidate]:
    return [Candidate(Load(0.0)) for _ in range(count)]


def test_nobody_and_one() -> None:
    draw = random.Random(0)
    assert choose([], 0.0, draw) is None
    (only,) = places(1)
    assert choose([only], 0.0, draw) is only


def test_of_two_the_cheaper_is_chosen() -> None:
    one, other = places(2)
    one.load.record_latency(0.0, 0.5)
    assert {choose([one, other], 0.0, random.Random(seed)) for seed in range(20)} == {other}
    # As long as it has not more to do than the other is slower.
    for _ in range(2000):
        other.load.request_started()
    assert choose([one, other], 0.0, random.Random(1)) is one


def test_slow_one_is_tried_again_after_a_while() -> None:
    one, other = places(2)
    one.load.record_latency(0.0, 0.5)
    for second in range(120):
        other.load.record_latency(float(second), 0.004)
    assert choose([one, other], 120.0, random.Random(1)) is one


@given(seed=st.integers(), count=st.integers(2, 12))
def test_idle_equals_share_alike(seed: int, count: int) -> None:
    draw = random.Random(seed)
    group = places(count)
    chosen: Counter[int] = Counter()
    for _ in range(200 * count):
        candidate = choose(group, 0.0, draw)
        assert candidate is not None
        chosen[id(candidate)] += 1
        candidate.load.request_started()
        candidate.load.record_latency(0.0, 0.01)
        candidate.load.request_ended()
    assert len(chosen) == count
    assert max(chosen.values()) < 320
    assert min(chosen.values()) > 100


class BalancerMachine(RuleBasedStateMachine):
    """Requests come and go in any order; nothing is lost, and no cost is ever nonsense."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.draw = random.Random(11)
        self.group = places(3)
        self.under_way: list[Candidate] = []
        self.slowest = 0.0

    @rule()
    def request(self) -> None:
        dearest = max(candidate.load.cost(self.now) for candidate in self.group)
        candidate = choose(self.group, self.now, self.draw)
        assert candidate is not None
        others = [other.load.cost(self.now) for other in self.group if other is not candidate]
        assert candidate.load.cost(self.now) <= max(others)  # never the one that is dearer than all others
        assert candidate.load.cost(self.now) <= dearest
        candidate.load.request_started()
        self.under_way.append(candidate)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 1000), seconds=st.floats(0.0, 100.0))
    def answer(self, which: int, seconds: float) -> None:
        candidate = self.under_way.pop(which % len(self.under_way))
        before = candidate.load.cost(self.now)
        candidate.load.record_latency(self.now, seconds)
        if seconds >= before:
            assert candidate.load.cost(self.now) >= before * 0.999
        candidate.load.request_ended()
        self.slowest = max(self.slowest, seconds)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 1000))
    def failure(self, which: int) -> None:
        self.under_way.pop(which % len(self.under_way)).load.request_ended()

    @rule(seconds=st.floats(0.0, 1000.0))
    def time_passes(self, seconds: float) -> None:
        before = [candidate.load.cost(self.now) for candidate in self.group]
        self.now += seconds
        after = [candidate.load.cost(self.now) for candidate in self.group]
        assert all(later <= earlier for earlier, later in zip(before, after, strict=True))

    @invariant()
    def every_request_is_counted_once(self) -> None:
        assert [candidate.load.outstanding for candidate in self.group] == [
            self.under_way.count(candidate) for candidate in self.group
        ]

    @invariant()
    def costs_are_between_the_floor_and_the_slowest(self) -> None:
        for candidate in self.group:
            most = (self.slowest + FLOOR_SECONDS) * (candidate.load.outstanding + 1)
            assert FLOOR_SECONDS <= candidate.load.cost(self.now) <= most * 1.001


BalancerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBalancer = BalancerMachine.TestCase
