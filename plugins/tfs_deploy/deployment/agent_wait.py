"""Wait until the sync agents of a group hold a version: look by look, so that a worker or a triggerer may do it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.sync_agents import (
    FRESH_SECONDS,
    AgentErrorKind,
    AgentProblem,
    AgentReport,
    LiveAgents,
)
from tfs_deploy.errors import DeadlineExceeded, LoadFailed, Unreachable

logger = logging.getLogger(__name__)

# A damaged transfer cures itself at the next attempt; after so many the object in the store is what is damaged.
CORRUPT_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class WaitProgress:
    """A wait as somebody else may take it up: when it began (seconds since the epoch), and what was seen until now."""

    since: float
    seen: dict[str, str]


class AgentWait:
    """The wait for one version; its time begins here, or is that of an earlier part of the same wait."""

    def __init__(self, session: GroupSession, model: str, version: int, *, so_far: WaitProgress | None = None) -> None:
        self._session = session
        self._model = model
        self._version = version
        now = session.clock.now().timestamp()
        self._so_far = so_far or WaitProgress(now, {})
        self._agents = LiveAgents(session.store.documents, session.group.name, seen=self._so_far.seen)
        self._needed = session.store.needs_sync_agent
        self._started = session.clock.monotonic() - max(0.0, now - self._so_far.since)
        self._told: tuple[str, ...] = ()

    @property
    def so_far(self) -> WaitProgress:
        """Return what the next part of this wait begins with."""
        return WaitProgress(self._so_far.since, self._agents.seen)

    def look(self) -> bool:
        """Tell whether every living agent holds the version; costs one listing and one read per agent.

        True at once where nobody has to bring anything: no agent lives, and the model servers read the store. Raises
        Unreachable if there should be an agent and none showed up within the discovery limit, LoadFailed if the
        version is damaged in the store, DeadlineExceeded, quoting the agents, after the load limit.
        """
        living = self._agents.look(self._session.clock.now())
        without = {name: each for name, each in living.items() if not each.holds(self._model, self._version)}
        if not without and (living or not self._needed):
            self._warn_of_too_few(living)
            return True
        self._give_up(living, without)
        if tuple(without) != self._told:
            self._told = tuple(without)
            logger.info(
                "Waiting for version %s of %s on the disk of: %s",
                self._version,
                self._model,
                ", ".join(self._told) or "-",
            )
        return False

    def _warn_of_too_few(self, living: Mapping[str, AgentReport]) -> None:
        replicas = len(self._session.clients)
        if living and len(living) < replicas:
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

    def _give_up(self, living: Mapping[str, AgentReport], without: Mapping[str, AgentReport]) -> None:
        session, waited = self._session, self._session.clock.monotonic() - self._started
        group = session.group.name
        if not living and waited >= session.wait.discovery:
            raise Unreachable(
                f"No sync agent of group {group!r} has reported to {session.store.uri} in the last "
                f"{FRESH_SECONDS:.0f} s, and model servers cannot read that store themselves.",
                f"Start one beside every model server: tfs-deploy sync --store {session.store.uri} --group {group} "
                "--model-root DIR.",
            )
        problems = {name: report.problem_with(self._model, self._version) for name, report in without.items()}
        # Where another agent has it whole, the damage comes from that one's disk or network, and the version is good.
        whole_elsewhere = len(without) < len(living)
        for name, problem in problems.items():
            if problem and not whole_elsewhere and _is_damaged_in_the_store(problem):
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
    """Wait until every living agent of the group holds `version`; raises what `AgentWait.look` raises."""
    wait = AgentWait(session, model, version)
    while not wait.look():
        session.clock.sleep(session.wait.interval)


def _is_damaged_in_the_store(problem: AgentProblem) -> bool:
    return bool(problem.version) and problem.kind is AgentErrorKind.CORRUPT and problem.attempts >= CORRUPT_ATTEMPTS
