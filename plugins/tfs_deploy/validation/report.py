"""What a gate found and what all gates together say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum


class Verdict(str, Enum):
    """The answer of a gate: `inconclusive` means that nobody can tell, which is not a pass."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Check:
    """One gate on one replica, with the numbers that it measured."""

    gate: str
    replica: str
    verdict: Verdict
    detail: str
    measured: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """Everything that the gates found about one version; `at` is ISO 8601 in UTC, `seconds` the time it took.

    `compared_with` are the live versions that a gate compared it with, 0 where nothing was live; empty: no gate did.
    """

    model: str
    version: int
    fingerprint: str
    replicas: tuple[str, ...]
    checks: tuple[Check, ...]
    verdict: Verdict
    at: str
    seconds: float
    compared_with: tuple[int, ...] = ()

    def measured(self) -> dict[str, float]:
        """Return per figure the worst replica's value, which is the one that a client may meet."""
        figures: dict[str, float] = {}
        for check in self.checks:
            for name, value in check.measured.items():
                worst = max if name.endswith(("_error", "_seconds")) else min
                figures[name] = worst(value, figures.get(name, value))
        return figures

    def reason(self) -> str:
        """Return one sentence: what decided the verdict."""
        if self.verdict is Verdict.PASS:
            gates = ", ".join(dict.fromkeys(check.gate for check in self.checks))
            count = f"{len(self.replicas)} replica" + ("" if len(self.replicas) == 1 else "s")
            return f"Version {self.version} of model {self.model!r} passed {gates} on {count}."
        decisive = [check for check in self.checks if check.verdict is self.verdict]
        told = "; ".join(dict.fromkeys(f"gate {check.gate}: {_one_line(check.detail)}" for check in decisive[:3]))
        more = f" (and {len(decisive) - 3} more)" if len(decisive) > 3 else ""
        word = "failed" if self.verdict is Verdict.FAIL else "could not be decided on"
        return f"Version {self.version} of model {self.model!r} {word} {told}{more}."


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def overall(checks: Iterable[Check]) -> Verdict:
    """Return `fail` if any gate failed, else `inconclusive` if any is (or none ran), else `pass`."""
    found = {check.verdict for check in checks}
    if Verdict.FAIL in found:
        return Verdict.FAIL
    if Verdict.INCONCLUSIVE in found or not found:
        return Verdict.INCONCLUSIVE
    return Verdict.PASS
