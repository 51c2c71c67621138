"""The sync agents of a group, known by their reports; a step that needs a version on every disk waits for them.

An agent downloads versions from a store that model servers cannot read to the disk that they do read
(`tfs_deploy.sync`). It writes what it holds into a state document of its own, its report.
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

# An agent writes at least every 30 s; after four times as long without a report it counts as dead.
FRESH_SECONDS = 120.0


class AgentErrorKind(str, Enum):
    """Why an agent does not hold a version that it should."""

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
    """Why an agent does not hold a version; `version` 0: the problem concerns all of them."""

    kind: AgentErrorKind
    message: str
    model: str = ""
    version: int = 0
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class AgentReport:
    """The versions that one agent holds, complete and verified; `at` is ISO 8601 in UTC.

    `instance` is new each time an agent starts: it tells two agents under one name apart.
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
        """Return why the version is missing: its own problem, or else one that concerns every version."""
        concerning = [each for each in self.problems if (each.model, each.version) in {(model, version), ("", 0)}]
        return min(concerning, key=lambda each: not each.model, default=None)


def key(group: str, agent: str) -> str:
    """Return the key of the agent's state document."""
    return f"{_prefix(group)}{agent}.json"


class LiveAgents:
    """Tells living agents from dead ones: by the time in their report, or because the report changes.

    The second way is for agents whose clock is wrong.
    """

    def __init__(self, documents: StateDocuments, group: str, *, tags: Mapping[str, str] | None = None) -> None:
        """`tags` is the property `tags` of the instance that this one continues."""
        self._documents = documents
        self._group = group
        self._tags = dict(tags or {})

    @property
    def tags(self) -> dict[str, str]:
        """Return, per report, its last tag and, after a space, when the tag was last observed to change."""
        return dict(self._tags)

    def reports(self, now: datetime) -> dict[str, AgentReport]:
        """Return the reports of the living agents, by name; costs one listing and one read per agent."""
        living: dict[str, AgentReport] = {}
        for report_key in self._documents.list(_prefix(self._group)):
            document = self._documents.read(report_key)
            if document is None:
                continue
            changed = self._changed_lately(report_key, document.tag, now)
            report = _parsed(report_key, document.body)
            if report is not None and (changed or _age(report, now) < FRESH_SECONDS):
                living[report.agent] = report
        return living

    def _changed_lately(self, report_key: str, tag: str, now: datetime) -> bool:
        """Tell whether the report changed within the time that a living agent may take between two reports."""
        known, _, at = self._tags.get(report_key, tag).partition(" ")
        if known != tag:
            at = repr(now.timestamp())
        self._tags[report_key] = f"{tag} {at}".rstrip()
        return bool(at) and abs(now.timestamp() - float(at)) < FRESH_SECONDS


def agents_are_required(session: GroupSession) -> bool:
    """Tell whether versions reach the disks by agents: one of the group lives, or the model servers need one."""
    if session.store.requires_sync_agent:
        return True
    return bool(LiveAgents(session.store.documents, session.group.name).reports(session.clock.now()))


def _prefix(group: str) -> str:
    return f"groups/{group}/agents/"


def _age(report: AgentReport, now: datetime) -> float:
    return abs((now - datetime.fromisoformat(report.at)).total_seconds())


def _parsed(report_key: str, body: bytes) -> AgentReport | None:
    try:
        report = from_json(AgentReport, body)
        if datetime.fromisoformat(report.at).tzinfo is None:
            return None
    except (CorruptModel, ValueError) as error:
        logger.warning("The document %s is not the report of a sync agent: %s", report_key, error)
        return None
    return report
