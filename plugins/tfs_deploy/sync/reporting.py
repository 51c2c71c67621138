"""Tell the store what this agent holds, so that a step of a deploy can wait for it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable
from dataclasses import replace

from tfs_deploy.clock import Clock
from tfs_deploy.deployment import sync_agents
from tfs_deploy.deployment.sync_agents import AgentProblem, AgentReport
from tfs_deploy.errors import Contention, CorruptModel
from tfs_deploy.jsonable import from_json, to_json
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
        self._tag: str | None = None
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
        body = to_json(replace(said, at=self._clock.now().isoformat()))
        try:
            self._tag = self._documents.write(self._key, body, expected=self._tag)
        except Contention:
            self._tag = self._documents.write(self._key, body, expected=self._found())
        self._said, self._written_at = said, now

    def withdraw(self) -> None:
        """Remove the report: nobody needs to wait for this agent any more."""
        if self._written_at is not None:
            self._documents.delete(self._key)

    def _found(self) -> str | None:
        """Return the tag of what is there; it is that of an earlier life of this agent, or of a namesake."""
        document = self._documents.read(self._key)
        if document is not None and self._written_at is not None:
            try:
                other = from_json(AgentReport, document.body).instance
            except CorruptModel:
                other = ""
            if other != self._said.instance:
                logger.warning(
                    "Another agent of group %s reports under the name %s; give each its own with --name",
                    self._said.group,
                    self._said.agent,
                )
        return None if document is None else document.tag
