"""Run an agent until it is stopped, or once for an init container."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from enum import Enum

from tfs_deploy.clock import Clock, Deadline
from tfs_deploy.deployment.sync_agents import AgentProblem
from tfs_deploy.sync.agent import Agent, AgentStatus
from tfs_deploy.sync.plan import VersionName

logger = logging.getLogger(__name__)


class Outcome(str, Enum):
    """How `run_once` ended."""

    DONE = "done"
    NOTHING_NEEDED = "nothing_needed"
    """The group has no desired state yet: its servers start empty, and the first deploy gives them one."""
    REFUSED = "refused"
    COULD_NOT_TELL = "could_not_tell"


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of `run_once`; versions per model."""

    outcome: Outcome
    group: str
    needed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    held: dict[str, tuple[int, ...]] = field(default_factory=dict)
    without_version: tuple[str, ...] = ()
    problems: tuple[AgentProblem, ...] = ()


def run_until(agent: Agent, stop: threading.Event) -> bool:
    """Make a pass per poll period, and one whenever a download ends, until `stop`; return the result of `Agent.close`.

    The caller that sets `stop` also sets the agent's `wake`, which ends the pause between two passes.
    """
    while not stop.is_set():
        agent.poll()
        agent.wake.wait(agent.settings.poll)
        agent.wake.clear()
    return agent.close()


def run_once(agent: Agent, stop: threading.Event, *, seconds: float, clock: Clock) -> RunResult:
    """Make passes until every required version is on the disk, or until the agent is idle and `seconds` are over."""
    deadline = Deadline.after(seconds, clock)
    while not stop.is_set():
        agent.poll()
        status = agent.status
        if status.ready or (status.idle and deadline.passed()):
            break
        agent.wake.wait(agent.settings.poll if status.idle else min(agent.settings.poll, 0.1))
        agent.wake.clear()
    status = agent.status
    agent.close()
    outcome = _outcome(status, waited=seconds > 0.0)
    return RunResult(
        outcome,
        agent.settings.group,
        _by_model(status.needed or ()),
        _by_model(tuple(status.held)),
        status.without,
        status.problems,
    )


def _outcome(status: AgentStatus, *, waited: bool) -> Outcome:
    if status.ready:
        return Outcome.DONE
    if status.exit_codes & {1, 2}:
        return Outcome.REFUSED
    if status.needed is None and not status.problems and not waited:
        return Outcome.NOTHING_NEEDED
    return Outcome.COULD_NOT_TELL


def _by_model(names: tuple[VersionName, ...]) -> dict[str, tuple[int, ...]]:
    by_model: dict[str, tuple[int, ...]] = {}
    for name in sorted(names):
        by_model[name.model] = (*by_model.get(name.model, ()), name.version)
    return by_model
