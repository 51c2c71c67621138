"""When an agent counts as alive: a restart does not bring back a store that is away."""

from __future__ import annotations

from collections import Counter

from fakes import FakeClock
from tfs_deploy.store.object_store.connection import S3Options
from tfs_deploy.sync.http_server import Health
from tfs_deploy.sync.metrics import Metrics


def passed(metrics: Metrics, clock: FakeClock, *, success: bool) -> None:
    at = clock.now().timestamp()
    metrics.record_pass(at=at, success=success, held={}, needed=0, ready=False, failures=Counter())


def test_a_pass_may_take_as_long_as_a_store_may_keep_silent() -> None:
    clock, metrics, options = FakeClock(), Metrics(), S3Options()
    health = Health(metrics, clock, poll=1.0)
    passed(metrics, clock, success=True)
    # Of a server behind which packets vanish: what is needed is asked for, and what is held is told.
    pauses = sum(min(2**attempt, 20) for attempt in range(options.max_retries))
    clock.advance(2 * ((options.max_retries + 1) * options.connect_timeout_seconds + pauses))
    assert health.is_alive() == (True, "ok")
    passed(metrics, clock, success=False)
    clock.advance(400.0)
    alive, why = health.is_alive()
    assert not alive
    assert "has not come round" in why
    passed(metrics, clock, success=False)
    alive, why = health.is_alive()
    assert not alive
    assert "the store has not answered" in why
    passed(metrics, clock, success=True)
    assert health.is_alive() == (True, "ok")
