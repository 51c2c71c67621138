"""What the sync agents of a group say they hold; a step that needs a version on every replica's disk waits for them.

An agent brings versions from a store that model servers cannot read to the disk that they do read
(`tfs_deploy.sync`). It tells what it holds in a state document of its own, and that document is all a step sees of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import CorruptModel
from tfs_deploy.jsonable import from_json
from tfs_deploy.store.protocol import StateDocuments

logger = logging.getLogger(__name__)

# An agent writes at least every 30 s; one that was silent four times as long is taken for gone.
FRESH_SECONDS = 120.0


class AgentErrorKind(str, Enum):
    """What keeps an agent from holding what it should."""

    CORRUPT = "corrupt"
    DISK_FULL = "disk_full"
    UNREACHABLE = "unreachable"
    MISSING = "missing"
    """The store does not have it (any more)."""
    DIFFERS = "differs"
    """On the agent's disk the number is taken by something else; it may be live, so it is left alone."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AgentProblem:
    """One thing that went wrong; `version` 0: it is not about one version."""

    kind: AgentErrorKind
    message: str
    model: str = ""
    version: int = 0
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class AgentReport:
    """What one agent holds, complete and compared with the store; `at` is ISO 8601 in UTC.

    `instance` is another one each time an agent starts, so that two under one name are seen.
    """

    agent: str
    group: str
    at: str
    instance: str
    held: dict[str, tuple[int, ...]] = field(default_factory=dict)
    problems: tuple[AgentProblem, ...] = ()

    def holds(self, model: str, version: int) -> bool:
        """Tell whether the version is complete on the agent's disk."""
        return version in self.held.get(model, ())

    def problem_with(self, model: str, version: int) -> AgentProblem | None:
        """Return what keeps the version away: its own problem, or else one that is about everything."""
        found = [each for each in self.problems if (each.model, each.version) in {(model, version), ("", 0)}]
        return min(found, key=lambda each: each.version == 0, default=None)


def key(group: str, agent: str) -> str:
    """Return the key of the agent's state document."""
    return f"{_prefix(group)}{agent}.json"


class LiveAgents:
    """Tells living agents from dead ones: by the time in their report, or because it changes while one looks.

    The second way is for agents whose clock is wrong.
    """

    def __init__(self, documents: StateDocuments, group: str, *, seen: Mapping[str, str] | None = None) -> None:
        """`seen` is the property `seen` of an earlier look by somebody who looks on here."""
        self._documents = documents
        self._group = group
        self._seen = dict(seen or {})

    @property
    def seen(self) -> dict[str, str]:
        """Return the state in which each report was last seen, and, behind a space, when it was seen to change."""
        return dict(self._seen)

    def look(self, now: datetime) -> dict[str, AgentReport]:
        """Return the reports of the agents that live, by name; costs one listing and one read per agent."""
        found: dict[str, AgentReport] = {}
        for each in self._documents.list(_prefix(self._group)):
            document = self._documents.read(each)
            if document is None:
                continue
            changed = self._changed_lately(each, document.tag, now)
            report = _parsed(each, document.body)
            if report is not None and (changed or _age(report, now) < FRESH_SECONDS):
                found[report.agent] = report
        return found

    def _changed_lately(self, report: str, tag: str, now: datetime) -> bool:
        """Tell whether the report was seen to change within the time that a living agent may be silent."""
        known, _, at = self._seen.get(report, tag).partition(" ")
        if known != tag:
            at = repr(now.timestamp())
        self._seen[report] = f"{tag} {at}".rstrip()
        return bool(at) and abs(now.timestamp() - float(at)) < FRESH_SECONDS


def agents_are_asked(session: GroupSession) -> bool:
    """Tell whether anybody has to bring versions: an agent of the group lives, or the model servers need one."""
    if session.store.needs_sync_agent:
        return True
    return bool(LiveAgents(session.store.documents, session.group.name).look(session.clock.now()))


def _prefix(group: str) -> str:
    return f"groups/{group}/agents/"


def _age(report: AgentReport, now: datetime) -> float:
    return abs((now - datetime.fromisoformat(report.at)).total_seconds())


def _parsed(where: str, body: bytes) -> AgentReport | None:
    try:
        report = from_json(AgentReport, body)
        if datetime.fromisoformat(report.at).tzinfo is None:
            return None
    except (CorruptModel, ValueError) as error:
        logger.warning("The document %s is not the report of a sync agent: %s", where, error)
        return None
    return report
