"""The verdict of one gate on one replica, and the report of all gates on all replicas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tfs_deploy.names import plural


class Verdict(str, Enum):
    """The answer of a gate; `inconclusive` (for example, a replica does not answer) is not a pass."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Check:
    """One gate on one replica, with the metrics that it measured."""

    gate: str
    replica: str
    verdict: Verdict
    detail: str
    measured: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeptGates:
    """The gates that ran, as plain data with which another machine can run them again.

    `options` holds, by the name of each gate that ran, its value as in a gates file; `files` the SHA-256 (hex) of each
    file that the options name, by its path there.
    """

    options: dict[str, Any]
    rpc_seconds: float
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """The checks of one version; `at` is ISO 8601 in UTC, `seconds` the time that they took.

    `compared_with` are the live versions that a gate compared it with, 0 where nothing was live; empty: no gate did.
    `gates` is None where the gates were not kept: those cannot be run again.
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
    gates: KeptGates | None = None

    def reason(self) -> str:
        """Return one sentence: what decided the verdict."""
        if self.verdict is Verdict.PASS:
            gates = ", ".join(dict.fromkeys(check.gate for check in self.checks))
            replicas = plural(len(self.replicas), "replica")
            return f"Version {self.version} of model {self.model!r} passed {gates} on {replicas}."
        decisive = [check for check in self.checks if check.verdict is self.verdict]
        details = "; ".join(dict.fromkeys(f"gate {check.gate}: {_single_line(check.detail)}" for check in decisive[:3]))
        more = f" (and {len(decisive) - 3} more)" if len(decisive) > 3 else ""
        word = "failed" if self.verdict is Verdict.FAIL else "could not be decided on"
        return f"Version {self.version} of model {self.model!r} {word} {details}{more}."


def _single_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def overall(checks: Iterable[Check]) -> Verdict:
    """Return `fail` if any gate failed, else `inconclusive` if any is (or none ran), else `pass`."""
    verdicts = {check.verdict for check in checks}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    if Verdict.INCONCLUSIVE in verdicts or not verdicts:
        return Verdict.INCONCLUSIVE
    return Verdict.PASS
