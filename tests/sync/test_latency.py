"""A version is in sight of the server one pass after it is complete; benchmarks/sync_latency.py tells the seconds."""

from __future__ import annotations

from sync.bench import Bench, labelled


def test_one_pass_makes_a_version_visible(bench: Bench) -> None:
    agent = bench.agent(latest=("m",))
    for _ in range(3):
        version = bench.publish()
        agent.poll()
        assert bench.shown()[-1] == version


def test_one_pass_downloads_a_requested_version_and_the_next_one_reports_it(bench: Bench) -> None:
    bench.publish()
    bench.want(m=labelled(stable=1))
    agent = bench.agent()
    agent.poll()
    bench.publish()
    bench.want(m=labelled(2, stable=1))
    agent.poll()
    assert bench.shown() == [1, 2]
    agent.poll()
    assert bench.report().held == {"m": (1, 2)}
