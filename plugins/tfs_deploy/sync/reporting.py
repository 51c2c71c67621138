"""The report of an agent: the state document that the steps of a deploy read to wait for a version."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable
from dataclasses import replace

from tfs_deploy.clock import Clock
from tfs_deploy.deployment import sync_agents
from tfs_deploy.deployment.sync_agents import AgentProblem, AgentReport
from tfs_deploy.store.documents import update
from tfs_deploy.store.protocol import StateDocuments
from tfs_deploy.sync.plan import VersionName

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 30.0


class Reporter:
    """Writes the report when its contents change, and every HEARTBEAT_SECONDS without a change."""

    def __init__(self, documents: StateDocuments, group: str, name: str, clock: Clock) -> None:
        self._documents = documents
        self._key = sync_agents.key(group, name)
        self._clock = clock
        self._reported = AgentReport(name, group, at="", instance=uuid.uuid4().hex)
        self._written_at: float | None = None

    def report(self, held: Iterable[VersionName], problems: tuple[AgentProblem, ...]) -> None:
        """Write the report if it has changed or the last one is old; raise what the store raises."""
        by_model: dict[str, list[int]] = {}
        for name in sorted(held):
            by_model.setdefault(name.model, []).append(name.version)
        contents = replace(self._reported, held={model: tuple(v) for model, v in by_model.items()}, problems=problems)
        now = self._clock.monotonic()
        recent = self._written_at is not None and now - self._written_at < HEARTBEAT_SECONDS
        if recent and contents == self._reported:
            return
        report = replace(contents, at=self._clock.now().isoformat())

        def written(other: AgentReport | None) -> AgentReport:
            self._warn_of_namesake(other)
            return report

        update(self._documents, self._key, AgentReport, written, clock=self._clock, replace_corrupt=True)
        self._reported, self._written_at = contents, now

    def withdraw(self) -> None:
        """Remove the report, so that no step waits for this agent."""
        if self._written_at is not None:
            self._documents.delete(self._key)

    def _warn_of_namesake(self, other: AgentReport | None) -> None:
        """Log that another living agent writes the same document; one of an earlier life does not count."""
        if other is not None and self._written_at is not None and other.instance != self._reported.instance:
            logger.warning(
                "Another agent of group %s reports under the name %s; give each its own with --name",
                self._reported.group,
                self._reported.agent,
            )
