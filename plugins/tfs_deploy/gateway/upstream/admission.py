"""Admission of requests for one model: a bounded number in total, and a bounded number of Predict calls in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator

from tfs_deploy.clock import Clock
from tfs_deploy.gateway.problem import Problem, too_busy, unavailable

# The largest Retry-After in seconds; the load changes sooner.
_MAX_RETRY_AFTER = 30.0
# Weight of one duration in the moving average.
_SMOOTHING = 0.1


class Admission:
    """`concurrency` slots for Predict calls, and a queue of at most `queue` requests for them."""

    def __init__(self, model: str, concurrency: int, queue: int, clock: Clock) -> None:
        self._model = model
        self._concurrency = concurrency
        self._room = concurrency + queue
        self._clock = clock
        self._admitted = 0
        self._running = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._seconds = 0.0
        self._closed = False
        self._empty: asyncio.Event | None = None

    @property
    def admitted(self) -> int:
        """Return the number of admitted requests."""
        return self._admitted

    @property
    def waiting(self) -> int:
        """Return the number of requests that wait for a slot."""
        return len(self._queue)

    @property
    def has_spare_capacity(self) -> bool:
        """Return whether less than half of the slots are in use and nobody waits."""
        return not self._closed and not self._queue and self._admitted * 2 < self._concurrency

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Count one request as admitted for the block; raise Problem (429 full, 503 closing)."""
        if self._closed:
            raise unavailable("This gateway is shutting down; try again.")
        if self._admitted >= self._room:
            raise self.full()
        self._admitted += 1
        started = self._clock.monotonic()
        try:
            yield
        finally:
            self._admitted -= 1
            self._seconds += (self._clock.monotonic() - started - self._seconds) * _SMOOTHING
            if self._empty is not None and not self._admitted:
                self._empty.set()

    @contextlib.asynccontextmanager
    async def slot(self, deadline: float) -> AsyncIterator[None]:
        """Wait for a slot and hold it for the block; raise Problem where none is free before `deadline`."""
        if self._running < self._concurrency and not self._queue:
            self._running += 1
        else:
            await self._wait_for_slot(deadline)
        try:
            yield
        finally:
            self._release_slot()

    def close(self) -> None:
        """Admit no more requests."""
        self._closed = True

    async def drained(self, seconds: float) -> bool:
        """Wait at most `seconds` until no request is admitted; return whether that was reached."""
        self._empty = self._empty or asyncio.Event()
        if self._admitted:
            self._empty.clear()
            waiter = asyncio.ensure_future(self._empty.wait())
            await asyncio.wait({waiter}, timeout=seconds)
            waiter.cancel()
        return not self._admitted

    def full(self) -> Problem:
        """Return the problem of a full queue; its Retry-After is the average duration of recent requests."""
        retry_after = min(_MAX_RETRY_AFTER, max(1.0, self._seconds))
        return too_busy(
            f"The gateway already has {self._admitted} requests for model {self._model!r}; try again later.",
            retry_after=retry_after,
        )

    async def _wait_for_slot(self, deadline: float) -> None:
        slot: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(slot)
        try:
            await asyncio.wait({slot}, timeout=max(0.0, deadline - self._clock.monotonic()))
        except asyncio.CancelledError:
            self._cancel_wait(slot)
            raise
        if not slot.done():
            self._cancel_wait(slot)
            raise unavailable(
                f"The request for model {self._model!r} waited until its deadline for a free slot; try again."
            )

    def _cancel_wait(self, slot: asyncio.Future[None]) -> None:
        if slot.done():  # the slot came at the same moment
            self._release_slot()
        else:
            self._queue.remove(slot)

    def _release_slot(self) -> None:
        """Pass the slot to the next request in the queue, or free it."""
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self._running -= 1
