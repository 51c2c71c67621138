"""One replica of one model: the versions under its labels, its health, its load, and the choice between replicas."""

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
from tfs_deploy.serving.replies import Metadata

# A latency that is this many seconds old has the weight 1/e.
MEMORY_SECONDS = 10.0
# The latency of a replica without requests so far; it keeps requests in flight in the comparison.
FLOOR_SECONDS = 0.001
logger = logging.getLogger(__name__)
# A replica is ejected after this number of consecutive queries without an answer in time.
_MAX_TIMEOUTS = 2


class Load:
    """The load of one replica: its requests in flight, and its "peak EWMA" latency (Finagle).

    A rise of the latency counts at once, a fall gradually.
    """

    def __init__(self, now: float) -> None:
        self.outstanding = 0
        self._seconds = 0.0
        self._measured_at = now

    def request_started(self) -> None:
        """Count a request that was assigned to this replica."""
        self.outstanding += 1

    def request_ended(self) -> None:
        """Count the end of a request."""
        self.outstanding -= 1

    def record_latency(self, now: float, seconds: float) -> None:
        """Add the latency of an answer in seconds."""
        left = math.exp(-max(0.0, now - self._measured_at) / MEMORY_SECONDS)
        old = self._seconds
        # A slow answer sets the latency; a fast one lowers it by the share of the time passed.
        self._seconds = seconds if seconds > old else old * left + seconds * (1.0 - left)
        self._measured_at = now

    def cost(self, now: float) -> float:
        """Return the expected duration of the next request in seconds."""
        left = math.exp(-max(0.0, now - self._measured_at) / MEMORY_SECONDS)
        return (self._seconds * left + FLOOR_SECONDS) * (self.outstanding + 1)


class HasLoad(Protocol):
    """An object with a load."""

    @property
    def load(self) -> Load:
        """Return the load."""


T = TypeVar("T", bound=HasLoad)


def choose(candidates: Sequence[T], now: float, draw: random.Random) -> T | None:
    """Return the candidate for the next request, None without candidates: of two drawn at random the cheaper one.

    "Power of two choices" (Mitzenmacher, 2001) spreads load nearly as well as comparing all, and independent gateways
    do not all choose the same replica.
    """
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    first, second = draw.sample(candidates, 2)
    return second if second.load.cost(now) < first.load.cost(now) else first


@dataclass(frozen=True, slots=True)
class _LabelView:
    """The version under a label as queried at monotonic `queried_at`; NotFound where the label did not exist."""

    result: Metadata | NotFound
    queried_at: float


class Replica:
    """One address; belongs to one event loop.

    A label (or `NEWEST`) is resolved at this replica, at most `Health.max_age_seconds` before its use. Requests name a
    version by number, so that the checked version is the one that answers. A version that was `stable` that short a
    time ago has passed its gates.
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
        """Return whether the replica is healthy and `label` is known to exist here."""
        view = self._views.get(label)
        return not self.ejected and view is not None and self._is_fresh(view) and isinstance(view.result, Metadata)

    def lacks(self, label: str) -> bool:
        """Return whether `label` is known not to exist here."""
        view = self._views.get(label)
        return view is not None and self._is_fresh(view) and not isinstance(view.result, Metadata)

    def fresh_metadata(self, label: str) -> Metadata | None:
        """Return the version under `label` if it is known and not too old."""
        view = self._views.get(label)
        return view.result if view and self._is_fresh(view) and isinstance(view.result, Metadata) else None

    def last_metadata(self, label: str) -> Metadata | None:
        """Return the version under `label` as last queried, however old; None where the replica is ejected."""
        view = self._views.get(label)
        return view.result if view and not self.ejected and isinstance(view.result, Metadata) else None

    async def resolve(self, label: str, deadline: float, *, newer_than: float | None = None) -> Metadata:
        """Return the version under `label`, cached if it is fresh (and younger than the monotonic `newer_than`).

        Raises NotFound, Unreachable or DeadlineExceeded.
        """
        view = self._views.get(label)
        for _ in range(2):  # the pending query may have been sent before `newer_than`
            if view is not None and self._is_fresh(view) and (newer_than is None or view.queried_at > newer_than):
                break
            view = await self._query(label, deadline)
        assert view is not None
        if isinstance(view.result, NotFound):
            # A new exception, because one that is raised repeatedly collects all its tracebacks.
            raise NotFound(view.result.cause, view.result.remedy)
        return view.result

    async def probe(self, label: str) -> None:
        """Query `label` now, and update the health; raises nothing."""
        deadline = self._clock.monotonic() + self._health.timeout_seconds
        try:
            await self._query(label, deadline)
        except (Transient, Permanent) as error:
            logger.debug(
                "%s does not answer the query for %s of %s: %s", self.target, describe_label(label), self._model, error
            )

    def record_failure(self, error: TFSDeployError) -> None:
        """Eject the replica: it refused a call, or the connection ended during one."""
        self._timeouts = 0
        self._eject(str(error), unresponsive=False)

    def track(self, task: asyncio.Task[Any]) -> None:
        """Count an attempt as in flight here until it ends."""
        # Counted before it is sent; otherwise requests that arrive together would all choose this replica.
        self.load.request_started()
        self._attempts.add(task)
        task.add_done_callback(self._untrack)

    def _untrack(self, task: asyncio.Task[Any]) -> None:
        self.load.request_ended()
        self._attempts.discard(task)

    def cancel_attempts(self) -> None:
        """Cancel the attempts in flight here, so that their requests go to other replicas."""
        for task in tuple(self._attempts):
            task.cancel()

    async def wait_until_idle(self, seconds: float) -> None:
        """Wait at most `seconds` until no attempt is in flight here."""
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=seconds)

    def close(self) -> None:
        """Cancel the pending queries."""
        for task in self._queries.values():
            task.cancel()

    # --- queries --------------------------------------------------------------------------------------------------

    def _is_fresh(self, view: _LabelView) -> bool:
        return self._clock.monotonic() - view.queried_at < self._health.max_age_seconds

    async def _query(self, label: str, deadline: float) -> _LabelView:
        """Query `label`; callers at the same time share one query."""
        task = self._queries.get(label)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._send_query(label))
            self._queries[label] = task
            task.add_done_callback(lambda done: self._query_done(label, done))
        await asyncio.wait({task}, timeout=max(0.0, deadline - self._clock.monotonic()))
        if not task.done() or task.cancelled():
            raise DeadlineExceeded(
                f"The model server at {self.target} did not resolve {describe_label(label)} in time.", "Try again."
            )
        return task.result()

    def _query_done(self, label: str, task: asyncio.Task[_LabelView]) -> None:
        self._queries.pop(label, None)
        if not task.cancelled():
            task.exception()  # retrieved, in case every caller has timed out

    async def _send_query(self, label: str) -> _LabelView:
        # The time before the query, because the label may move while the answer is in transit.
        queried_at = self._clock.monotonic()
        result: Metadata | NotFound
        try:
            result = await self.client.metadata(
                self._model, label=None if label == NEWEST else label, timeout=self._health.timeout_seconds
            )
        except NotFound as error:
            result = error
        except DeadlineExceeded as error:
            self._timeouts += 1
            if self._timeouts >= _MAX_TIMEOUTS:
                self._eject(str(error), unresponsive=True)
            raise
        except TFSDeployError as error:
            self.record_failure(error)
            raise
        self._log_change(label, result)
        view = _LabelView(result, queried_at)
        self._views[label] = view
        self._readmit()
        return view

    def _log_change(self, label: str, result: Metadata | NotFound) -> None:
        """Log a change of the version under `label`."""
        old = self._views.get(label)
        before = old.result.version if old is not None and isinstance(old.result, Metadata) else None
        after = result.version if isinstance(result, Metadata) else None
        if before != after:
            logger.info("%s of %s at %s: %s, was %s", describe_label(label), self._model, self.target, after, before)

    # --- health ---------------------------------------------------------------------------------------------------

    def _eject(self, reason: str, *, unresponsive: bool) -> None:
        if self.ejected and self.unresponsive == unresponsive:
            return
        logger.warning("Ejected: no requests for %s go to %s: %s", self._model, self.target, reason)
        self.ejected, self.unresponsive = True, unresponsive
        self._changed(self)

    def _readmit(self) -> None:
        self._timeouts = 0
        if self.ejected:
            logger.info("%s answers for %s again", self.target, self._model)
            self.ejected = self.unresponsive = False
            self._changed(self)
