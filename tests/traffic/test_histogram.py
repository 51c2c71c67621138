"""Percentiles are those of the sorted latencies, at most 2 percent too high, whatever was recorded."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tfs_deploy.traffic.histogram import GROWTH, LatencyHistogram

LATENCIES = st.lists(st.floats(1e-6, 3600.0), min_size=1, max_size=200)


def recorded(latencies: list[float]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for seconds in latencies:
        histogram.record(seconds)
    return histogram


@given(LATENCIES, st.floats(0.0, 1.0))
def test_a_percentile_is_that_of_the_sorted_latencies(latencies, share):
    exact = sorted(latencies)[max(1, math.ceil(share * len(latencies))) - 1]
    assert exact * 0.999999 <= recorded(latencies).percentile(share) <= exact * GROWTH * 1.000001


@given(LATENCIES, LATENCIES)
def test_a_sum_has_the_percentiles_of_all(first, second):
    total = recorded(first)
    total.add(recorded(second))
    together = recorded(first + second)
    for share in (0.0, 0.5, 0.9, 0.99, 1.0):
        assert total.percentile(share) == together.percentile(share)
    assert (total.count, total.longest) == (together.count, together.longest)


def test_no_latency_at_all_and_none_below_the_clocks_step():
    assert LatencyHistogram().percentile(0.5) == 0.0
    assert recorded([0.0, 0.0]).percentile(0.99) == 0.0


def test_memory_does_not_grow_with_the_count():
    histogram = recorded([1e-6 * 1.01**step for step in range(2000)] * 5)
    assert histogram.count == 10_000
    assert len(histogram._buckets) < 1200
