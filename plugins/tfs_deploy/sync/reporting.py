"""Tell the store what this agent holds, so that a step of a deploy can wait for it."""

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
    """Writes one document: when what it says changes, and every 30 s as a sign of life."""

    def __init__(self, documents: StateDocuments, group: str, name: str, clock: Clock) -> None:
        self._documents = documents
        self._key = sync_agents.key(group, name)
        self._clock = clock
        self._said = AgentReport(name, group, at="", instance=uuid.uuid4().hex)
        self._written_at: float | None = None

    def report(self, held: Iterable[VersionName], problems: tuple[AgentProblem, ...]) -> None:
        """Say what is held, if that is news or the last word is old; raise what the store raises."""
        by_model: dict[str, list[int]] = {}
        for name in sorted(held):
            by_model.setdefault(name.model, []).append(name.version)
        said = replace(self._said, held={model: tuple(v) for model, v in by_model.items()}, problems=problems)
        now = self._clock.monotonic()
        quiet = self._written_at is not None and now - self._written_at < HEARTBEAT_SECONDS
        if quiet and said == self._said:
            return
        report = replace(said, at=self._clock.now().isoformat())

        def written(other: AgentReport | None) -> AgentReport:
            self._warn_of_namesake(other)
            return report

        update(self._documents, self._key, AgentReport, written, clock=self._clock, replace_corrupt=True)
        self._said, self._written_at = said, now

    def withdraw(self) -> None:
        """Remove the report: nobody needs to wait for this agent any more."""
        if self._written_at is not None:
            self._documents.delete(self._key)

    def _warn_of_namesake(self, other: AgentReport | None) -> None:
        """Log that another living agent writes the same document; one of an earlier life does not count."""
        if other is not None and self._written_at is not None and other.instance != self._said.instance:
            logger.warning(
                "Another agent of group %s reports under the name %s; give each its own with --name",
                self._said.group,
                self._said.agent,
            )
