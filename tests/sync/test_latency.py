"""A version is in sight of the server one pass after it is complete; benchmarks/sync_latency.py tells the seconds."""

from __future__ import annotations

from sync.bench import Bench, labelled


def test_one_pass_brings_a_version_into_sight(bench: Bench) -> None:
    agent = bench.agent(latest=("m",))
    for _ in range(3):
        version = bench.publish()
        agent.poll()
        assert bench.shown()[-1] == version


def test_one_pass_brings_what_a_deployer_waits_for_and_the_next_one_tells_him(bench: Bench) -> None:
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
