"""Remove containers whose process, DAG run or time is over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from tfs_deploy.clock import Clock
from tfs_deploy.containers.engine import ContainerEngine, Found
from tfs_deploy.containers.labels import PROJECT, PROJECT_LABEL, Owner, Purpose, owner_of

logger = logging.getLogger(__name__)

# Tells whether a DAG run goes on; None: nobody knows.
RunIsAlive = Callable[[str, str], bool | None]


@dataclass(frozen=True, slots=True)
class Leftover:
    """A container that nobody needs, and why."""

    id: str
    name: str
    owner: Owner
    why: str


def leftovers(engine: ContainerEngine, *, clock: Clock, run_is_alive: RunIsAlive | None = None) -> tuple[Leftover, ...]:
    """Return the containers of this project that nobody needs any more; looks and removes nothing.

    A throw-away one ends with its process; one of a DAG run with that run, where `run_is_alive` knows about it; either
    with its time. One that is long-lived never does, nor one that somebody else started.
    """
    now = int(clock.now().timestamp())
    found = (_judge(one, now, run_is_alive) for one in engine.find({PROJECT_LABEL: PROJECT}))
    return tuple(one for one in found if one is not None)


def reap(engine: ContainerEngine, *, clock: Clock, run_is_alive: RunIsAlive | None = None) -> tuple[Leftover, ...]:
    """Remove what `leftovers` finds and return it; two reapers at the same time do no harm."""
    gone = leftovers(engine, clock=clock, run_is_alive=run_is_alive)
    for one in gone:
        engine.remove(one.id)
        logger.info("Removed leftover container %s: %s", one.name or one.id, one.why)
    return gone


def _judge(found: Found, now: int, run_is_alive: RunIsAlive | None) -> Leftover | None:
    owner = owner_of(found.labels)
    if owner is None or owner.purpose is Purpose.LONG_LIVED:
        return None
    why = _why(owner, now, run_is_alive)
    return Leftover(found.id, found.name, owner, why) if why else None


def _why(owner: Owner, now: int, run_is_alive: RunIsAlive | None) -> str:
    if owner.purpose is Purpose.THROW_AWAY and owner.process and owner.process.alive() is False:
        return f"process {owner.process.pid} has ended"
    if owner.purpose is Purpose.RUN and owner.run and run_is_alive and run_is_alive(owner.dag, owner.run) is False:
        return f"run {owner.run} of DAG {owner.dag} is over"
    if owner.until and owner.until <= now:
        return "its time is over"
    return ""
