"""One request to the replicas of a model: the attempts at it, within its deadline.

Predict changes nothing on a model server, so it may be sent twice. It is sent again at once to another replica where
one refused it; when all refuse, after a pause. Where a replica went away *with* it, it is sent again `Retries.lost`
times only: a request that ends model servers must not be handed round. Everything else is the answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from tfs_deploy.clock import Clock
from tfs_deploy.errors import DeadlineExceeded, NotFound, TFSDeployError
from tfs_deploy.gateway.config import Hedging, Retries
from tfs_deploy.gateway.problem import Problem, from_error, not_found, too_late, unavailable
from tfs_deploy.gateway.upstream.answer import NEWEST, Answer, Arrays, Meter, describe_label
from tfs_deploy.gateway.upstream.attempt import Attempt, AttemptFailed, FailureKind
from tfs_deploy.gateway.upstream.replica import Replica, choose

logger = logging.getLogger(__name__)

_MIN_PAUSE, _MAX_PAUSE = 0.02, 0.5
# How many hedges may be saved up while none were needed.
_HEDGES_SAVED = 10.0


class RetryPolicy(Enum):
    """What a request waits for while nobody answers it."""

    FULL = "full"
    """For replicas, and for the label: after a restart it is back when the model is loaded."""
    REPLICAS = "replicas"
    """For replicas; a label that is known to be nowhere is an answer."""
    NONE = "none"
    """For nothing: there is another label to ask."""


class HedgeBudget:
    """How many requests may be sent twice: a share of all, so that hedging never doubles the load of a slow group."""

    def __init__(self, percent: float) -> None:
        self._share = percent / 100.0
        self._saved = _HEDGES_SAVED if percent else 0.0

    def earn(self) -> None:
        """Note one request."""
        self._saved = min(_HEDGES_SAVED, self._saved + self._share)

    def spend(self) -> bool:
        """Take one hedge; tell whether there was one."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True


@dataclass(slots=True)
class _Request:
    """One request, and what was tried for it."""

    arrays: Arrays
    label: str
    deadline: float
    retry_until: float
    policy: RetryPolicy
    request_id: str
    asked: set[Replica] = field(default_factory=set)
    in_flight: dict[asyncio.Task[Answer], Replica] = field(default_factory=dict)
    attempts: int = 0
    lost: int = 0
    pause: float = _MIN_PAUSE
    hedged: bool = False
    failed: TFSDeployError | None = None
    mismatch: Problem | None = None


class Calls:
    """Sends requests for one model to whichever of `replicas()` answers."""

    def __init__(
        self,
        replicas: Callable[[], Sequence[Replica]],
        attempt: Attempt,
        *,
        retries: Retries,
        hedging: Hedging | None,
        clock: Clock,
        draw: random.Random,
        meter: Meter,
    ) -> None:
        self._replicas = replicas
        self._attempt = attempt
        self._retries = retries
        self._hedge_after = hedging.after_ms / 1000.0 if hedging else None
        self._hedges = HedgeBudget(hedging.max_percent if hedging else 0.0)
        self._clock = clock
        self._draw = draw
        self._meter = meter

    async def send(
        self, arrays: Arrays, *, label: str, deadline: float, policy: RetryPolicy, request_id: str
    ) -> Answer:
        """Return the first answer; raise Problem; `deadline` is monotonic seconds."""
        self._hedges.earn()
        retry_until = min(deadline, self._clock.monotonic() + self._retries.seconds)
        request = _Request(arrays, label, deadline, retry_until, policy, request_id)
        try:
            while True:
                if not request.in_flight:
                    if request.lost > self._retries.lost:
                        raise self._no_answer(request)
                    if not self._start(request):
                        if request.mismatch is not None:
                            raise request.mismatch
                        await self._back_off(request)
                        continue
                answer = await self._wait_for_attempt(request)
                if answer is not None:
                    return answer
        finally:
            for task in request.in_flight:
                task.cancel()

    # --- attempts ---------------------------------------------------------------------------------------------------

    def _start(self, request: _Request) -> bool:
        """Send to a replica that was not asked yet; tell whether there was one."""
        replica = self._choose_replica(request)
        if replica is None:
            return False
        request.asked.add(replica)
        request.attempts += 1
        coroutine = self._attempt.run(replica, request.arrays, request.label, request.deadline, request.attempts)
        task = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(_retrieve_error)
        request.in_flight[task] = replica
        replica.track(task)
        return True

    def _choose_replica(self, request: _Request) -> Replica | None:
        """Choose among those that are known to serve the label, else those that may, else those that are out."""
        now = self._clock.monotonic()
        left = [replica for replica in self._replicas() if replica not in request.asked]
        serving = [replica for replica in left if replica.serves(request.label)]
        hopeful = [replica for replica in left if not replica.ejected]
        return choose(serving or hopeful or left, now, self._draw)

    async def _wait_for_attempt(self, request: _Request) -> Answer | None:
        """Wait for the end of one attempt, and hedge meanwhile; return the answer if it is one."""
        hedge = self._hedge_after is not None and not request.hedged and not request.lost
        done, _ = await asyncio.wait(
            request.in_flight, timeout=self._hedge_after if hedge else None, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            request.hedged = True
            self._hedge(request)
            return None
        for task in done:
            replica = request.in_flight.pop(task)
            answer = self._outcome(request, replica, task)
            if answer is not None:
                return answer
        return None

    def _hedge(self, request: _Request) -> None:
        another = any(replica.serves(request.label) for replica in self._replicas() if replica not in request.asked)
        if another and self._hedges.spend() and self._start(request):
            self._meter.count("hedge")

    def _outcome(self, request: _Request, replica: Replica, task: asyncio.Task[Answer]) -> Answer | None:
        """Return the answer, raise what is final, return None if the request may go elsewhere."""
        error = None if task.cancelled() else task.exception()
        if task.cancelled():  # the replica was given up while it had the request
            self._record_failure(request, replica, FailureKind.LOST, None)
        elif error is None:
            return task.result()
        elif isinstance(error, AttemptFailed):
            self._record_failure(request, replica, error.kind, error.error)
        elif isinstance(error, Problem) and self._serves_other_version(request, replica):
            # While a label moves from replica to replica, both signatures are live: nothing was sent yet.
            request.mismatch = error
        else:
            raise error
        return None

    def _serves_other_version(self, request: _Request, asked: Replica) -> bool:
        """Tell whether a replica that was not asked yet has another version under the label than `asked` has."""
        known = asked.known(request.label)
        left = (replica for replica in self._replicas() if replica not in request.asked and not replica.ejected)
        views = (replica.known(request.label) for replica in left)
        return any(view is not None and (known is None or view.version != known.version) for view in views)

    def _record_failure(
        self, request: _Request, replica: Replica, kind: FailureKind, error: TFSDeployError | None
    ) -> None:
        """Note a failed attempt; raise Problem if no other may follow."""
        request.failed = error or request.failed
        self._meter.count("failed_attempt", replica=replica.target, kind=kind.value)
        logger.info("%s: attempt %d at %s was %s", request.request_id, request.attempts, replica.target, kind.value)
        if kind is FailureKind.FINAL and error is not None:
            raise from_error(error, self._attempt.model)
        if kind is FailureKind.LOST:
            request.lost += 1

    # --- nobody answers ---------------------------------------------------------------------------------------------

    async def _back_off(self, request: _Request) -> None:
        """Let a pause pass before everybody is asked again; raise Problem when that would be too late."""
        replicas = self._replicas()
        nowhere = bool(replicas) and all(replica.lacks(request.label) for replica in replicas)
        if nowhere and request.policy is not RetryPolicy.FULL:
            raise not_found(f"Model {self._attempt.model!r} has no label {request.label!r}.")
        pause = request.pause * (0.5 + 0.5 * self._draw.random())
        now = self._clock.monotonic()
        if now >= request.deadline:
            raise too_late(f"Model {self._attempt.model!r} did not answer within the request's time.")
        if now + pause >= request.retry_until or request.policy is RetryPolicy.NONE:
            raise self._no_answer(request)
        await asyncio.sleep(pause)
        request.pause = min(request.pause * 2.0, _MAX_PAUSE)
        request.asked.clear()
        self._meter.count("round")

    def _no_answer(self, request: _Request) -> Problem:
        model = self._attempt.model
        if isinstance(request.failed, NotFound):
            under = "" if request.label == NEWEST else f" under the {describe_label(request.label)}"
            return unavailable(f"Model {model!r} has no version{under} at the moment.")
        if isinstance(request.failed, DeadlineExceeded) or request.failed is None:
            return unavailable(f"No model server answered in time for model {model!r}; try again.")
        return from_error(request.failed, model)


def _retrieve_error(task: asyncio.Task[Answer]) -> None:
    """Look at the error of an attempt that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
