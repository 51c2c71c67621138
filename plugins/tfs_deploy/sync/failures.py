"""The current failures of an agent and the time of the next attempt. Pure: the time is passed in."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tfs_deploy.deployment.sync_agents import AgentErrorKind, AgentProblem
from tfs_deploy.errors import CorruptModel, NotFound, TFSDeployError, Transient
from tfs_deploy.sync.plan import VersionName

logger = logging.getLogger(__name__)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# The pause doubles with each failure of a subject. The limits are short where the cause may end at any moment.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = {
    AgentErrorKind.DISK_FULL: 10.0,
    AgentErrorKind.UNREACHABLE: 15.0,
    AgentErrorKind.CORRUPT: 60.0,
    AgentErrorKind.MISSING: 30.0,
    AgentErrorKind.DIFFERS: 60.0,
    AgentErrorKind.FAILED: 30.0,
}

# What fails: a version, or a part of the agent's own work.
Subject = VersionName | str


def kind_of(error: TFSDeployError) -> AgentErrorKind:
    """Return the kind of `error`, from its type and the system error that caused it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return AgentErrorKind.DISK_FULL
        cause = cause.__cause__
    if isinstance(error, CorruptModel):
        return AgentErrorKind.CORRUPT
    if isinstance(error, NotFound):
        return AgentErrorKind.MISSING
    return AgentErrorKind.UNREACHABLE if isinstance(error, Transient) else AgentErrorKind.FAILED


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: AgentErrorKind
    message: str
    attempts: int
    retry_at: float
    exit_code: int


class Failures:
    """The current failures, one per subject."""

    def __init__(self) -> None:
        self._entries: dict[Subject, _Entry] = {}
        self.counts: Counter[AgentErrorKind] = Counter()

    def add(
        self, subject: Subject, error: TFSDeployError, *, now: float, kind: AgentErrorKind | None = None
    ) -> AgentErrorKind:
        """Record a failure of `subject`; log a warning if it is the first of its kind."""
        kind = kind or kind_of(error)
        before = self._entries.get(subject)
        attempts = before.attempts + 1 if before and before.kind is kind else 1
        pause = min(LONGEST_PAUSE_SECONDS[kind], FIRST_PAUSE_SECONDS * 2 ** min(attempts - 1, 10))
        self._entries[subject] = _Entry(kind, str(error), attempts, now + pause, error.exit_code)
        self.counts[kind] += 1
        if before is None or before.kind is not kind:
            logger.warning("%s", error)
        else:
            logger.info("Attempt %s, again in %.0f s: %s", attempts, pause, error)
        return kind

    def clear(self, subject: Subject) -> None:
        """Record a success of `subject`."""
        if self._entries.pop(subject, None) is not None:
            logger.info("Works again: %s", subject)

    def keep_only(self, versions: Iterable[VersionName]) -> None:
        """Drop the failures of versions that are not among `versions`."""
        left = frozenset(versions)
        for subject in [each for each in self._entries if isinstance(each, VersionName) and each not in left]:
            del self._entries[subject]

    def may_try(self, subject: Subject, now: float) -> bool:
        """Tell whether `subject` may be tried at `now`."""
        entry = self._entries.get(subject)
        return entry is None or now >= entry.retry_at

    def has_failed(self, subject: Subject) -> bool:
        """Tell whether `subject` has failed since its last success."""
        return subject in self._entries

    def problems(self) -> tuple[AgentProblem, ...]:
        """Return all failures for the report, in a stable order."""
        ordered = sorted(self._entries.items(), key=lambda item: str(item[0]))
        return tuple(_problem(subject, entry) for subject, entry in ordered)

    def exit_codes(self) -> frozenset[int]:
        """Return the exit codes of the errors."""
        return frozenset(entry.exit_code for entry in self._entries.values())


def _problem(subject: Subject, entry: _Entry) -> AgentProblem:
    if isinstance(subject, VersionName):
        return AgentProblem(entry.kind, entry.message, subject.model, subject.version, entry.attempts)
    return AgentProblem(entry.kind, entry.message, attempts=entry.attempts)
