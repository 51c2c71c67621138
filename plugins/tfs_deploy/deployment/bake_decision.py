"""Whether a canary serves as well as the stable version: a decision on counted requests, without clock and I/O."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from tfs_deploy.errors import InvalidInput
from tfs_deploy.names import plural
from tfs_deploy.validation.report import Verdict

# Of the normal distribution, one-sided: chance alone fails one sound canary in 200.
_Z = 2.58


@dataclass(frozen=True, slots=True)
class Traffic:
    """The requests of one version in a period.

    `failed` is the model's fault; `undecided` were refused because the servers were busy or away, which says nothing.
    `latency` counts the answered ones up to each number of seconds, like the buckets of a Prometheus histogram.
    """

    answered: int = 0
    failed: int = 0
    undecided: int = 0
    latency: dict[float, int] = field(default_factory=dict)

    @property
    def decided(self) -> int:
        """The requests that say something about the version."""
        return self.answered + self.failed

    @property
    def error_rate(self) -> float:
        """The share of failed requests, 0 without any request."""
        return self.failed / self.decided if self.decided else 0.0

    def latency_bounds(self, quantile: float) -> tuple[float, float] | None:
        """Return the seconds between which `quantile` of the answers took, None without any answer."""
        wanted = quantile * max(self.latency.values(), default=0)
        lower = 0.0
        for upper, count in sorted(self.latency.items()):
            if wanted and count >= wanted:
                return lower, upper
            lower = upper
        return None


# A struct, not a dataclass: a misspelt key must be an error.
class BakeLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a canary may do worse than the stable version.

    `min_requests`: that each of both must have answered or failed; `max_error_increase`: of the share of failed
    requests; `max_latency_ratio`: of the seconds at `latency_quantile`. Raises InvalidInput.
    """

    min_requests: int = 100
    max_error_increase: float = 0.01
    max_latency_ratio: float = 1.5
    latency_quantile: float = 0.95

    def __post_init__(self) -> None:
        """Raise InvalidInput for a limit that no canary, or every one, would keep."""
        ranges = {
            "min_requests": (1, math.inf),
            "max_error_increase": (0.0, 1.0),
            "max_latency_ratio": (1.0, math.inf),
            "latency_quantile": (0.5, 0.999),
        }
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise InvalidInput(
                    f"The limit {name} of the bake is {value:g}.", f"Use a number from {least:g} to {most:g}."
                )


@dataclass(frozen=True, slots=True)
class BakeDecision:
    """The verdict on a canary, one sentence that says why, and the numbers behind it."""

    verdict: Verdict
    reason: str
    measured: dict[str, float] = field(default_factory=dict)


def decide(canary: Traffic, stable: Traffic, limits: BakeLimits, *, missing: tuple[str, ...] = ()) -> BakeDecision:
    """Compare the canary with the stable version in the same period; `missing` names what was not measured.

    A canary fails by a difference that chance does not explain. It passes when it had enough requests and nothing is
    missing; everything else is inconclusive.
    """
    measured = _measured(canary, stable, limits)
    failure = next(_failures(canary, stable, limits), None)
    if failure is not None:
        return BakeDecision(Verdict.FAIL, failure, measured)
    doubt = next(_doubts(canary, stable, limits, missing), None)
    if doubt is not None:
        return BakeDecision(Verdict.INCONCLUSIVE, doubt, measured)
    reason = (
        f"The canary answered {plural(canary.answered, 'request')} and failed {canary.failed}, "
        f"which is no worse than the stable version."
    )
    return BakeDecision(Verdict.PASS, reason, measured)


def _failures(canary: Traffic, stable: Traffic, limits: BakeLimits) -> Iterator[str]:
    if min(canary.decided, stable.decided) < limits.min_requests:
        return
    allowed = stable.error_rate + limits.max_error_increase
    if _least_rate(canary.failed, canary.decided) > allowed:
        yield (
            f"The canary failed {canary.failed} of {plural(canary.decided, 'request')} ({canary.error_rate:.2%}), and "
            f"the stable version {stable.failed} of {stable.decided} ({stable.error_rate:.2%})."
        )
    bounds = canary.latency_bounds(limits.latency_quantile), stable.latency_bounds(limits.latency_quantile)
    if bounds[0] is not None and bounds[1] is not None and bounds[0][0] > bounds[1][1] * limits.max_latency_ratio:
        yield (
            f"{limits.latency_quantile:.1%} of the canary's answers take more than {1000 * bounds[0][0]:g} ms, and of "
            f"the stable version's at most {1000 * bounds[1][1]:g} ms."
        )


def _doubts(canary: Traffic, stable: Traffic, limits: BakeLimits, missing: tuple[str, ...]) -> Iterator[str]:
    if missing:
        yield f"Not measured: {'; '.join(missing)}."
    for name, traffic in (("canary", canary), ("stable version", stable)):
        if traffic.decided < limits.min_requests:
            refused = f" ({traffic.undecided} more were refused by busy or absent servers)" if traffic.undecided else ""
            yield (
                f"The {name} had {plural(traffic.decided, 'request')}{refused}, and {limits.min_requests} are needed."
            )
        if traffic.answered and not traffic.latency:
            yield f"The latency of the {name} was not measured."
    if canary.error_rate > stable.error_rate + limits.max_error_increase:
        yield (
            f"The canary failed {canary.failed} of {plural(canary.decided, 'request')}, which may be chance: "
            "more requests are needed."
        )


def _least_rate(failed: int, total: int) -> float:
    """Return the lower bound of Wilson's interval for the rate behind `failed` of `total`."""
    rate, z2 = failed / total, _Z * _Z
    centre = rate + z2 / (2 * total)
    spread = _Z * math.sqrt(rate * (1 - rate) / total + z2 / (4 * total * total))
    return (centre - spread) / (1 + z2 / total)


def _measured(canary: Traffic, stable: Traffic, limits: BakeLimits) -> dict[str, float]:
    measured: dict[str, float] = {}
    for name, traffic in (("canary", canary), ("stable", stable)):
        measured[f"{name}_requests"] = float(traffic.decided)
        measured[f"{name}_error_rate"] = traffic.error_rate
        bounds = traffic.latency_bounds(limits.latency_quantile)
        if bounds is not None and math.isfinite(bounds[1]):
            measured[f"{name}_latency_seconds_at_most"] = bounds[1]
    return measured
