"""How many requests are let in, and how many of them may act at once: bounded, first come, first served."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator

from tfs_deploy.clock import Clock
from tfs_deploy.gateway.problem import Problem, too_busy, unavailable

# What a client is told to wait at most; by then the load is another one.
_LONGEST_RETRY = 30.0
# How much one more duration counts in the average.
_SHARE = 0.1


class Admission:
    """`concurrency` turns, and a queue of at most `queue` for them."""

    def __init__(self, model: str, concurrency: int, queue: int, clock: Clock) -> None:
        self._model = model
        self._concurrency = concurrency
        self._room = concurrency + queue
        self._clock = clock
        self._inside = 0
        self._acting = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._seconds = 0.0
        self._closed = False
        self._empty: asyncio.Event | None = None

    @property
    def inside(self) -> int:
        """Return how many requests are let in."""
        return self._inside

    @property
    def waiting(self) -> int:
        """Return how many wait for a turn."""
        return len(self._queue)

    @property
    def idle_turn(self) -> bool:
        """Tell whether a turn would be had at once, with half of them to spare."""
        return not self._closed and not self._queue and self._inside * 2 < self._concurrency

    @contextlib.contextmanager
    def let_in(self) -> Iterator[None]:
        """Count one request as inside; raise Problem (429 full, 503 closing)."""
        if self._closed:
            raise unavailable("This gateway is shutting down; try again.")
        if self._inside >= self._room:
            raise self.full()
        self._inside += 1
        started = self._clock.monotonic()
        try:
            yield
        finally:
            self._inside -= 1
            self._seconds += (self._clock.monotonic() - started - self._seconds) * _SHARE
            if self._empty is not None and not self._inside:
                self._empty.set()

    @contextlib.asynccontextmanager
    async def turn(self, deadline: float) -> AsyncIterator[None]:
        """Wait for a turn, and hold it; raise Problem if none comes before `deadline`."""
        if self._acting < self._concurrency and not self._queue:
            self._acting += 1
        else:
            await self._wait(deadline)
        try:
            yield
        finally:
            self._pass_on()

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True

    async def drained(self, seconds: float) -> bool:
        """Wait until nobody is inside, at most `seconds`; tell whether that was so."""
        self._empty = self._empty or asyncio.Event()
        if self._inside:
            self._empty.clear()
            waiter = asyncio.ensure_future(self._empty.wait())
            await asyncio.wait({waiter}, timeout=seconds)
            waiter.cancel()
        return not self._inside

    def full(self) -> Problem:
        """Return the problem that says when there may be room: after as long as a request takes of late."""
        retry_after = min(_LONGEST_RETRY, max(1.0, self._seconds))
        return too_busy(f"The gateway has {self._inside} requests for model {self._model!r}.", retry_after=retry_after)

    async def _wait(self, deadline: float) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(mine)
        try:
            await asyncio.wait({mine}, timeout=max(0.0, deadline - self._clock.monotonic()))
        except asyncio.CancelledError:
            self._leave(mine)
            raise
        if not mine.done():
            self._leave(mine)
            raise unavailable(f"No turn came for this request to model {self._model!r} in its time; try again.")

    def _leave(self, mine: asyncio.Future[None]) -> None:
        if mine.done():  # the turn came at the same moment
            self._pass_on()
        else:
            self._queue.remove(mine)

    def _pass_on(self) -> None:
        """Give the turn to the next in the queue, or back."""
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self._acting -= 1
