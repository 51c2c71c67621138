"""Wait until the sync agents of a group hold a version, poll by poll, so that a task may be deferred in between."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.sync_agents import FRESH_SECONDS, AgentErrorKind, AgentProblem, AgentReport, LiveAgents
from tfs_deploy.errors import DeadlineExceeded, LoadFailed, Unreachable
from tfs_deploy.names import PLACEHOLDER

logger = logging.getLogger(__name__)

# A download that was damaged on the way succeeds at the next attempt; after so many the store's copy is damaged.
CORRUPT_ATTEMPTS = 3
# A poll reads the store once per agent, so pauses grow: to a tenth of the time waited, within these bounds.
_PAUSE_SHARE = 0.1
_SHORTEST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class WaitProgress:
    """A wait that another process may continue.

    `since` is its start in seconds since the epoch; `report_tags` are the tags of the reports at the last poll; `polls`
    counts the processes that have polled.
    """

    since: float
    report_tags: dict[str, str]
    polls: int


class AgentWait:
    """The wait for one version; its time begins now, or at the start of the wait that it continues.

    It reads the store only, and asks no replica.
    """

    def __init__(
        self, session: GroupSession, model: str, version: int, *, progress: WaitProgress | None = None
    ) -> None:
        self._session = session
        self._model = model
        self._version = version
        now = session.clock.now().timestamp()
        self._since = progress.since if progress else now
        tags = progress.report_tags if progress else {}
        self._polls = progress.polls if progress else 0
        self._agents = LiveAgents(session.store.documents, session.group.name, tags=tags)
        self._started = session.clock.monotonic() - max(0.0, now - self._since)
        self._logged: tuple[str, ...] = ()

    @property
    def progress(self) -> WaitProgress:
        """Return what another process needs to continue this wait."""
        return WaitProgress(self._since, self._agents.tags, self._polls + 1)

    @property
    def waited(self) -> float:
        """Return the seconds since the wait began, in whichever process."""
        return self._session.clock.monotonic() - self._started

    def pause(self) -> float:
        """Return the seconds until the next poll: from 0.5 s to 5 s, growing with the time waited."""
        return min(max(_SHORTEST_PAUSE_SECONDS, self.waited * _PAUSE_SHARE), _LONGEST_PAUSE_SECONDS)

    def poll(self) -> bool:
        """Tell whether every living agent holds the version; costs one listing and one read per agent.

        True also if no agent lives and the model servers read the store themselves. Raises Unreachable if they cannot
        and no agent reported within the discovery limit, LoadFailed if the version is damaged in the store,
        DeadlineExceeded, quoting the agents, after the load limit.
        """
        living = self._agents.reports(self._session.clock.now())
        without = {name: each for name, each in living.items() if not each.holds(self._model, self._version)}
        if not without and (living or not self._session.store.requires_sync_agent):
            self._warn_if_too_few(living)
            return True
        self._raise_if_hopeless(living, without)
        if tuple(without) != self._logged:
            self._logged = tuple(without)
            logger.info(
                "Waiting for version %s of %s on the disk of: %s",
                self._version,
                self._model,
                ", ".join(self._logged) or "-",
            )
        return False

    def _warn_if_too_few(self, living: Mapping[str, AgentReport]) -> None:
        replicas = len(self._session.group.replicas)
        # The version that follows a placeholder is warned of anyway.
        if living and len(living) < replicas and self._version != PLACEHOLDER:
            logger.warning(
                "Fewer sync agents of group %r live (%s: %s) than it has replicas (%s): a replica that shares no disk "
                "with one of them will not get version %s of %s.",
                self._session.group.name,
                len(living),
                ", ".join(sorted(living)),
                replicas,
                self._version,
                self._model,
            )

    def _raise_if_hopeless(self, living: Mapping[str, AgentReport], without: Mapping[str, AgentReport]) -> None:
        session, waited = self._session, self.waited
        group = session.group.name
        if not living and waited >= session.wait.discovery:
            raise Unreachable(
                f"No sync agent of group {group!r} has reported to {session.store.uri} in the last "
                f"{FRESH_SECONDS:.0f} s, and model servers cannot read that store themselves.",
                f"Start one beside every model server: tfs-deploy sync --store {session.store.uri} --group {group} "
                "--model-root DIR.",
            )
        problems = {name: report.problem_with(self._model, self._version) for name, report in without.items()}
        # Where another agent holds the version, the damage is on the way to this agent, and not in the store.
        held_elsewhere = len(without) < len(living)
        for name, problem in problems.items():
            if problem and not held_elsewhere and _is_damaged_in_the_store(problem):
                raise LoadFailed(
                    f"Sync agent {name} refused version {self._version} of model {self._model!r} {problem.attempts} "
                    f"times: {problem.message}",
                    "The version is damaged in the store: publish the model again, it gets a new number.",
                )
        if without and waited >= session.wait.load:
            quoted = "; ".join(
                f"{name}: {problem.message if problem else 'busy'}" for name, problem in problems.items()
            )
            raise DeadlineExceeded(
                f"Version {self._version} of model {self._model!r} is not on every replica's disk after "
                f"{waited:.0f} s ({quoted}).",
                "Cure what the sync agents report, or allow more time for the load.",
            )


def wait_until_held(session: GroupSession, model: str, version: int) -> None:
    """Wait until every living agent of the group holds `version`; raises what `AgentWait.poll` raises."""
    wait = AgentWait(session, model, version)
    while not wait.poll():
        session.clock.sleep(wait.pause())


def _is_damaged_in_the_store(problem: AgentProblem) -> bool:
    return bool(problem.version) and problem.kind is AgentErrorKind.CORRUPT and problem.attempts >= CORRUPT_ATTEMPTS
