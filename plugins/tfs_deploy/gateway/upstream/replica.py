"""One model server as one model sees it: what the labels mean there, whether it answers, how busy it is."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from tfs_deploy.clock import Clock
from tfs_deploy.errors import DeadlineExceeded, NotFound, Permanent, TFSDeployError, Transient
from tfs_deploy.gateway.config import Health
from tfs_deploy.gateway.upstream.answer import NEWEST, describe_label
from tfs_deploy.serving.client import AsyncModelServerClient
from tfs_deploy.serving.protocol import Metadata

# A latency that is this many seconds old counts 1/e.
MEMORY_SECONDS = 10.0
# What a replica that was never asked is taken for; keeps the requests under way in the comparison.
FLOOR_SECONDS = 0.001


class Load:
    """The load of one replica: requests under way, and the latency that it showed lately."""

    def __init__(self, now: float) -> None:
        self.outstanding = 0
        self._seconds = 0.0
        self._measured_at = now

    def started(self) -> None:
        """Note that a request is meant for this replica."""
        self.outstanding += 1

    def ended(self) -> None:
        """Note that it is over."""
        self.outstanding -= 1

    def answered(self, now: float, seconds: float) -> None:
        """Note how long an answer took."""
        left = math.exp(-max(0.0, now - self._measured_at) / MEMORY_SECONDS)
        old = self._seconds
        # A slow answer is believed at once; a quick one lowers the latency by its share of the time passed.
        self._seconds = seconds if seconds > old else old * left + seconds * (1.0 - left)
        self._measured_at = now

    def cost(self, now: float) -> float:
        """Return how long the next request is expected to take, in seconds."""
        left = math.exp(-max(0.0, now - self._measured_at) / MEMORY_SECONDS)
        return (self._seconds * left + FLOOR_SECONDS) * (self.outstanding + 1)


class HasLoad(Protocol):
    """What has a load."""

    @property
    def load(self) -> Load:
        """Return it."""


T = TypeVar("T", bound=HasLoad)


def choose(candidates: Sequence[T], now: float, draw: random.Random) -> T | None:
    """Return the one of `candidates` to ask next; None if there is none."""
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    one, other = draw.sample(candidates, 2)
    return other if other.load.cost(now) < one.load.cost(now) else one


logger = logging.getLogger(__name__)

# So many questions in a row without an answer in time, and the replica counts as gone.
_MAX_TIMEOUTS = 2


@dataclass(frozen=True, slots=True)
class _LabelView:
    """What a label meant when it was asked at the monotonic time `at`; an error where it meant nothing."""

    found: Metadata | NotFound
    at: float


class Replica:
    """One address.

    A label may be `NEWEST`, which is none. The meaning of a label is this replica's own, and was read at most
    `Health.max_age_seconds` ago or after the request came: requests name the version by number, so that the version
    that was checked is the version that answers, and a version that was `stable` so short a time ago has passed its
    gates. Belongs to one event loop.
    """

    def __init__(
        self,
        model: str,
        target: str,
        client: AsyncModelServerClient,
        health: Health,
        clock: Clock,
        changed: Callable[[Replica], None] = lambda replica: None,
    ) -> None:
        self.target = target
        self.client = client
        self.load = Load(clock.monotonic())
        self.ejected = False
        self.unresponsive = False
        self._model = model
        self._health = health
        self._clock = clock
        self._changed = changed
        self._timeouts = 0
        self._views: dict[str, _LabelView] = {}
        self._queries: dict[str, asyncio.Task[_LabelView]] = {}
        self._attempts: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"Replica({self._model!r}, {self.target!r})"

    def serves(self, label: str) -> bool:
        """Tell whether `label` is known to mean a version here."""
        view = self._views.get(label)
        return not self.ejected and view is not None and self._is_fresh(view) and isinstance(view.found, Metadata)

    def lacks(self, label: str) -> bool:
        """Tell whether `label` is known to mean nothing here."""
        view = self._views.get(label)
        return view is not None and self._is_fresh(view) and not isinstance(view.found, Metadata)

    def known(self, label: str) -> Metadata | None:
        """Return what `label` means here if that is known."""
        view = self._views.get(label)
        return view.found if view and self._is_fresh(view) and isinstance(view.found, Metadata) else None

    def last(self, label: str) -> Metadata | None:
        """Return what `label` meant here when that was asked last, for whoever looks on; None where nobody is asked."""
        view = self._views.get(label)
        return view.found if view and not self.ejected and isinstance(view.found, Metadata) else None

    async def resolve(self, label: str, deadline: float, *, newer_than: float | None = None) -> Metadata:
        """Return what `label` means, from memory if that is fresh (and younger than the monotonic `newer_than`).

        Raises NotFound, Unreachable or DeadlineExceeded.
        """
        view = self._views.get(label)
        for _ in range(2):  # the first question may be one that somebody asked too early
            if view is not None and self._is_fresh(view) and (newer_than is None or view.at > newer_than):
                break
            view = await self._query(label, deadline)
        assert view is not None
        if isinstance(view.found, NotFound):
            # A new one: an exception that is raised again and again collects all the tracebacks.
            raise NotFound(view.found.cause, view.found.remedy)
        return view.found

    async def probe(self, label: str) -> None:
        """Ask what `label` means now, and note whether the replica answers; raises nothing."""
        deadline = self._clock.monotonic() + self._health.timeout_seconds
        try:
            await self._query(label, deadline)
        except (Transient, Permanent) as error:
            logger.debug(
                "%s does not tell what %s of %s is: %s", self.target, describe_label(label), self._model, error
            )

    def failed(self, error: TFSDeployError) -> None:
        """Note that the replica refused a call or went away during one."""
        self._timeouts = 0
        self._eject(str(error), unresponsive=False)

    def track(self, task: asyncio.Task[Any]) -> None:
        """Remember an attempt that is under way here."""
        # Counted from here, not from the moment it is sent: requests that come together would all choose this one.
        self.load.started()
        self._attempts.add(task)
        task.add_done_callback(self._untrack)

    def _untrack(self, task: asyncio.Task[Any]) -> None:
        self.load.ended()
        self._attempts.discard(task)

    def cancel_attempts(self) -> None:
        """End the attempts that are under way here, so that others may be asked."""
        for task in tuple(self._attempts):
            task.cancel()

    async def finished(self, seconds: float) -> None:
        """Wait until no attempt is under way here, at most `seconds`."""
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=seconds)

    def close(self) -> None:
        """Stop asking."""
        for task in self._queries.values():
            task.cancel()

    # --- questions --------------------------------------------------------------------------------------------------

    def _is_fresh(self, view: _LabelView) -> bool:
        return self._clock.monotonic() - view.at < self._health.max_age_seconds

    async def _query(self, label: str, deadline: float) -> _LabelView:
        """Ask once for everybody who wants to know."""
        task = self._queries.get(label)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._send_query(label))
            self._queries[label] = task
            task.add_done_callback(lambda done: self._query_done(label, done))
        await asyncio.wait({task}, timeout=max(0.0, deadline - self._clock.monotonic()))
        if not task.done() or task.cancelled():
            raise DeadlineExceeded(
                f"The model server at {self.target} did not say in time what {describe_label(label)} is.", "Try again."
            )
        return task.result()

    def _query_done(self, label: str, task: asyncio.Task[_LabelView]) -> None:
        self._queries.pop(label, None)
        if not task.cancelled():
            task.exception()  # whoever waits gets it; nobody may be left to wait

    async def _send_query(self, label: str) -> _LabelView:
        # The time before the question, not after the answer: the label may move while the answer is on its way.
        at = self._clock.monotonic()
        found: Metadata | NotFound
        try:
            found = await self.client.metadata(
                self._model, label=None if label == NEWEST else label, timeout=self._health.timeout_seconds
            )
        except NotFound as error:
            found = error
        except DeadlineExceeded as error:
            self._timeouts += 1
            if self._timeouts >= _MAX_TIMEOUTS:
                self._eject(str(error), unresponsive=True)
            raise
        except TFSDeployError as error:
            self.failed(error)
            raise
        self._record_failure(label, found)
        view = _LabelView(found, at)
        self._views[label] = view
        self._readmit()
        return view

    def _record_failure(self, label: str, found: Metadata | NotFound) -> None:
        """Log what changed."""
        old = self._views.get(label)
        before = old.found.version if old is not None and isinstance(old.found, Metadata) else None
        after = found.version if isinstance(found, Metadata) else None
        if before != after:
            logger.info("%s of %s at %s: %s, was %s", describe_label(label), self._model, self.target, after, before)

    # --- health -----------------------------------------------------------------------------------------------------

    def _eject(self, why: str, *, unresponsive: bool) -> None:
        if self.ejected and self.unresponsive == unresponsive:
            return
        logger.warning("No requests for %s to %s: %s", self._model, self.target, why)
        self.ejected, self.unresponsive = True, unresponsive
        self._changed(self)

    def _readmit(self) -> None:
        self._timeouts = 0
        if self.ejected:
            logger.info("%s answers for %s again", self.target, self._model)
            self.ejected = self.unresponsive = False
            self._changed(self)
