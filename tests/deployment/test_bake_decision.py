"""Verdicts on a canary: only a difference that chance does not explain fails it, and only enough requests pass it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfs_deploy.deployment.bake_decision import BakeLimits, Traffic, decide
from tfs_deploy.errors import InvalidInput
from tfs_deploy.validation.report import Verdict

FAST = {0.005: 0.9, 0.01: 1.0, 0.025: 1.0, math.inf: 1.0}
SLOW = {0.005: 0.0, 0.01: 0.1, 0.025: 0.2, math.inf: 1.0}


def traffic(answered: int, failed: int = 0, undecided: int = 0, shares: dict[float, float] = FAST) -> Traffic:
    return Traffic(answered, failed, undecided, {upper: round(share * answered) for upper, share in shares.items()})


STABLE = traffic(10_000, 10)


def verdict(canary: Traffic, stable: Traffic = STABLE, **more: Any) -> Verdict:
    decision = decide(canary, stable, BakeLimits(), **more)
    assert decision.reason.endswith(".")
    return decision.verdict


def test_a_canary_that_serves_as_well_passes() -> None:
    decision = decide(traffic(500, 1), STABLE, BakeLimits())
    assert decision.verdict is Verdict.PASS
    assert decision.measured == {
        "canary_requests": 501.0,
        "canary_error_rate": pytest.approx(1 / 501),
        "canary_latency_seconds_at_most": 0.01,
        "stable_requests": 10_010.0,
        "stable_error_rate": pytest.approx(10 / 10_010),
        "stable_latency_seconds_at_most": 0.01,
    }


def test_errors_that_chance_does_not_explain_fail_it() -> None:
    decision = decide(traffic(450, 50), STABLE, BakeLimits())
    assert decision.verdict is Verdict.FAIL
    assert decision.reason.startswith("The canary failed 50 of 500 requests (10.00%), and the stable version 10 of")


def test_errors_that_may_be_chance_do_not_decide() -> None:
    assert verdict(traffic(197, 3)) is Verdict.INCONCLUSIVE
    assert verdict(traffic(1970, 30)) is Verdict.INCONCLUSIVE
    assert verdict(traffic(19_700, 300)) is Verdict.FAIL


def test_errors_that_the_stable_version_has_too_are_no_fault() -> None:
    assert verdict(traffic(450, 50), traffic(9000, 1000)) is Verdict.PASS


def test_a_slow_canary_fails() -> None:
    decision = decide(traffic(500, shares=SLOW), STABLE, BakeLimits())
    assert decision.verdict is Verdict.FAIL
    assert decision.reason == (
        "95.0% of the canary's answers take more than 25 ms, and of the stable version's at most 10 ms."
    )


def test_neighbouring_buckets_are_no_difference() -> None:
    assert verdict(traffic(500, shares={0.005: 0.0, 0.01: 0.0, 0.025: 1.0, math.inf: 1.0})) is Verdict.PASS


@pytest.mark.parametrize(
    ("canary", "stable", "reason"),
    [
        (Traffic(), STABLE, "The canary had 0 requests, and 100 are needed."),
        (traffic(99), STABLE, "The canary had 99 requests, and 100 are needed."),
        (traffic(10, 0, 400), STABLE, "The canary had 10 requests (400 more were refused by busy or absent servers)"),
        (traffic(500), traffic(5), "The stable version had 5 requests"),
        (traffic(0, 50), STABLE, "The canary had 50 requests"),
        (Traffic(500), STABLE, "The latency of the canary was not measured."),
    ],
)
def test_too_little_is_inconclusive(canary: Traffic, stable: Traffic, reason: str) -> None:
    decision = decide(canary, stable, BakeLimits())
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reason.startswith(reason)


def test_what_is_missing_prevents_a_pass_and_no_failure() -> None:
    missing = ("gateway-1 did not answer",)
    assert verdict(traffic(500), missing=missing) is Verdict.INCONCLUSIVE
    assert verdict(traffic(400, 100), missing=missing) is Verdict.FAIL


@pytest.mark.parametrize(
    "limits",
    [
        {"min_requests": 0},
        {"max_error_increase": -0.1},
        {"max_error_increase": 1.1},
        {"max_latency_ratio": 0.9},
        {"latency_quantile": 1.0},
        {"latency_quantile": math.nan},
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(limits))):
        BakeLimits(**limits)


counts = st.integers(min_value=0, max_value=100_000)
traffics = st.builds(traffic, counts, counts, counts, shares=st.sampled_from([FAST, SLOW]))


@given(canary=traffics, stable=traffics)
def test_busy_servers_never_change_a_verdict_for_the_worse(canary: Traffic, stable: Traffic) -> None:
    quiet = Traffic(canary.answered, canary.failed, 0, canary.latency)
    assert decide(canary, stable, BakeLimits()).verdict is decide(quiet, stable, BakeLimits()).verdict


@given(canary=traffics, stable=traffics, more=st.integers(min_value=1, max_value=10_000))
def test_a_canary_that_fails_still_fails_with_more_failures(canary: Traffic, stable: Traffic, more: int) -> None:
    if decide(canary, stable, BakeLimits()).verdict is Verdict.FAIL:
        worse = Traffic(canary.answered, canary.failed + more, canary.undecided, canary.latency)
        assert decide(worse, stable, BakeLimits()).verdict is Verdict.FAIL


@given(both=traffics)
def test_a_canary_like_the_stable_version_never_fails(both: Traffic) -> None:
    assert decide(both, both, BakeLimits()).verdict is not Verdict.FAIL
