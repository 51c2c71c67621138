"""Run an agent: for good, or once for an init container."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from enum import Enum

from tfs_deploy.clock import Clock, Deadline
from tfs_deploy.deployment.sync_agents import AgentProblem
from tfs_deploy.sync.agent import Agent, Standing
from tfs_deploy.sync.plan import VersionName

logger = logging.getLogger(__name__)


class Outcome(str, Enum):
    """How a single pass ended."""

    DONE = "done"
    NOTHING_NEEDED = "nothing_needed"
    """The group has no desired state yet: its servers start empty, and the first deploy gives them one."""
    REFUSED = "refused"
    COULD_NOT_TELL = "could_not_tell"


@dataclass(frozen=True, slots=True)
class Once:
    """What a single pass found; versions per model."""

    outcome: Outcome
    group: str
    needed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    held: dict[str, tuple[int, ...]] = field(default_factory=dict)
    without_version: tuple[str, ...] = ()
    problems: tuple[AgentProblem, ...] = ()


def run_until(agent: Agent, stop: threading.Event) -> bool:
    """Make a pass per poll period, and at once when a transfer ends, until `stop`; return `Agent.close`.

    Whoever sets `stop` sets the agent's `wake` too.
    """
    while not stop.is_set():
        agent.poll()
        agent.wake.wait(agent.settings.poll)
        agent.wake.clear()
    return agent.close()


def run_once(agent: Agent, stop: threading.Event, *, seconds: float, clock: Clock) -> Once:
    """Make passes until everything needed is here, or until nothing is left to try and `seconds` are over."""
    deadline = Deadline.after(seconds, clock)
    while not stop.is_set():
        agent.poll()
        standing = agent.standing
        if standing.ready or (standing.settled and deadline.passed()):
            break
        agent.wake.wait(agent.settings.poll if standing.settled else min(agent.settings.poll, 0.1))
        agent.wake.clear()
    standing = agent.standing
    agent.close()
    outcome = _outcome(standing, waited=seconds > 0.0)
    return Once(
        outcome,
        agent.settings.group,
        _by_model(standing.needed or ()),
        _by_model(tuple(standing.held)),
        standing.without,
        standing.problems,
    )


def _outcome(standing: Standing, *, waited: bool) -> Outcome:
    if standing.ready:
        return Outcome.DONE
    if standing.exit_codes & {1, 2}:
        return Outcome.REFUSED
    if standing.needed is None and not standing.problems and not waited:
        return Outcome.NOTHING_NEEDED
    return Outcome.COULD_NOT_TELL


def _by_model(names: tuple[VersionName, ...]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name in sorted(names):
        found[name.model] = (*found.get(name.model, ()), name.version)
    return found
