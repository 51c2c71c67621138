"""How many requests are let in, and how many of them may act at once: bounded, first come, first served."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator

from tfs_deploy.clock import Clock
from tfs_deploy.gateway.problem import Problem, too_busy, unavailable

# What a client is told to wait at most; by then the load is another one.
_MAX_RETRY_AFTER = 30.0
# How much one more duration counts in the average.
_SMOOTHING = 0.1


class Admission:
    """`concurrency` turns, and a queue of at most `queue` for them."""

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
        """Return how many requests are let in."""
        return self._admitted

    @property
    def waiting(self) -> int:
        """Return how many wait for a turn."""
        return len(self._queue)

    @property
    def has_spare_capacity(self) -> bool:
        """Tell whether a turn would be had at once, with half of them to spare."""
        return not self._closed and not self._queue and self._admitted * 2 < self._concurrency

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Count one request as inside; raise Problem (429 full, 503 closing)."""
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
    async def turn(self, deadline: float) -> AsyncIterator[None]:
        """Wait for a turn, and hold it; raise Problem if none comes before `deadline`."""
        if self._running < self._concurrency and not self._queue:
            self._running += 1
        else:
            await self._wait_for_turn(deadline)
        try:
            yield
        finally:
            self._release_turn()

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True

    async def drained(self, seconds: float) -> bool:
        """Wait until nobody is inside, at most `seconds`; tell whether that was so."""
        self._empty = self._empty or asyncio.Event()
        if self._admitted:
            self._empty.clear()
            waiter = asyncio.ensure_future(self._empty.wait())
            await asyncio.wait({waiter}, timeout=seconds)
            waiter.cancel()
        return not self._admitted

    def full(self) -> Problem:
        """Return the problem that says when there may be room: after as long as a request takes of late."""
        retry_after = min(_MAX_RETRY_AFTER, max(1.0, self._seconds))
        return too_busy(
            f"The gateway has {self._admitted} requests for model {self._model!r}.", retry_after=retry_after
        )

    async def _wait_for_turn(self, deadline: float) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(mine)
        try:
            await asyncio.wait({mine}, timeout=max(0.0, deadline - self._clock.monotonic()))
        except asyncio.CancelledError:
            self._cancel_wait(mine)
            raise
        if not mine.done():
            self._cancel_wait(mine)
            raise unavailable(f"No turn came for this request to model {self._model!r} in its time; try again.")

    def _cancel_wait(self, mine: asyncio.Future[None]) -> None:
        if mine.done():  # the turn came at the same moment
            self._release_turn()
        else:
            self._queue.remove(mine)

    def _release_turn(self) -> None:
        """Give the turn to the next in the queue, or back."""
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self._running -= 1
