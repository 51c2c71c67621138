"""Repeat an operation on a model server while the server answers that it is busy (contract 20.12)."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from tfs_deploy.clock import Clock, Deadline
from tfs_deploy.errors import Busy, InvalidInput, Unreachable
from tfs_deploy.names import plural

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

# A pause is random between half and the whole of a time that doubles from the first to the longest.
FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.25
# For so long an operation is repeated that lost its connection, or got none.
LOST_SECONDS = 2.0


class BusyRetry:
    """Repeats each operation for `seconds`; 0: an operation is tried once.

    `pause` lets some seconds pass: by blocking, or on the event loop.
    """

    def __init__(self, seconds: float, clock: Clock, pause: Callable[[float], Awaitable[None]]) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            raise InvalidInput(f"The busy timeout {seconds!r} is not usable.", "Give seconds, 0 for a single attempt.")
        self._seconds = seconds
        self._clock = clock
        self._pause = pause

    async def run(self, operation: Callable[[], Awaitable[T]], *, seconds: float | None = None) -> T:
        """Return the result of `operation`, repeated while it raises Busy; `seconds` replaces those of the client.

        An operation that lost its connection, or got none, is repeated as well, for LOST_SECONDS at most: a server
        that restarts or a proxy that closes a connection costs no step, and a server that is away holds up none.
        Raises Busy, which says for how long and how often the server was asked, or Unreachable, when the time is up.
        Every other error passes at once.
        """
        limit = self._seconds if seconds is None else seconds
        if limit <= 0:
            return await operation()
        started, deadline = self._clock.monotonic(), Deadline.after(limit, self._clock)
        try:
            return await operation()
        except (Busy, Unreachable) as error:
            first_errors = [error]
        # Only after an error, because a retry costs as much to set up as an RPC; tenacity imports Tornado where it is
        # installed.
        from tenacity import (
            AsyncRetrying,
            RetryError,
            retry_if_exception_type,
            wait_exponential,
            wait_random_exponential,
        )

        lost = Deadline.after(min(limit, LOST_SECONDS), self._clock)

        def is_time_up(state: RetryCallState) -> bool:
            nonlocal lost
            if isinstance(_error_of(state), Busy):
                # It answers, so what is lost from now on is lost anew.
                lost = Deadline.after(min(limit, LOST_SECONDS), self._clock)
                return state.upcoming_sleep >= deadline.remaining()
            return state.upcoming_sleep >= min(lost.remaining(), deadline.remaining())

        async def attempt() -> T:
            if first_errors:
                raise first_errors.pop()
            return await operation()

        first, longest = FIRST_PAUSE_SECONDS / 2, LONGEST_PAUSE_SECONDS / 2
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((Busy, Unreachable)),
            stop=is_time_up,
            wait=wait_exponential(first, longest) + wait_random_exponential(first, longest),
            sleep=self._pause,
        )
        try:
            return await retrying(attempt)
        except RetryError as error:
            last, count = error.last_attempt.exception(), error.last_attempt.attempt_number
            asked = f"asked {plural(count, 'time')} in {self._clock.monotonic() - started:.1f} s"
            if isinstance(last, Busy):
                raise Busy(f"{last.cause.rstrip('.')} ({asked}).", last.remedy, code=last.code) from last
            if isinstance(last, Unreachable):
                raise Unreachable(f"{last.cause.rstrip('.')} ({asked}).", last.remedy) from last
            raise


def _error_of(state: RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()
