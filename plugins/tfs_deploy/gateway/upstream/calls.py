"""The attempts of one request at the replicas of a model, within its deadline.

Predict changes nothing on a model server, so a request may be sent twice. After a refusal another replica gets it at
once; after refusals by all replicas it is tried again with backoff. After a lost connection it is sent again at most
`Retries.lost` times, because a request that crashes model servers must not reach all of them. Other errors are final.
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
# The number of hedges that may accumulate unused.
_HEDGES_SAVED = 10.0


class RetryPolicy(Enum):
    """What a request without an answer waits for."""

    WAIT_FOR_LABEL = "wait_for_label"
    """For a replica and for the label, which is missing after a restart until the model is loaded."""
    WAIT_FOR_REPLICA = "wait_for_replica"
    """For a replica; a label that no replica has is an error (404)."""
    NO_WAIT = "no_wait"
    """For nothing, because another label is tried next."""


class HedgeBudget:
    """The number of requests that may be hedged: a share of all, so that hedging never doubles a slow group's load."""

    def __init__(self, percent: float) -> None:
        self._share = percent / 100.0
        self._saved = _HEDGES_SAVED if percent else 0.0

    def earn(self) -> None:
        """Add the share of one request."""
        self._saved = min(_HEDGES_SAVED, self._saved + self._share)

    def spend(self) -> bool:
        """Take one hedge; return whether the budget had one."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True


@dataclass(slots=True)
class _Request:
    """One request and its attempts."""

    arrays: Arrays
    label: str
    deadline: float
    retry_until: float
    policy: RetryPolicy
    request_id: str
    tried: set[Replica] = field(default_factory=set)
    in_flight: dict[asyncio.Task[Answer], Replica] = field(default_factory=dict)
    attempts: int = 0
    lost: int = 0
    pause: float = _MIN_PAUSE
    hedged: bool = False
    failed: TFSDeployError | None = None
    mismatch: Problem | None = None


class ReplicaCalls:
    """Sends requests for one model to `replicas()` until one answers."""

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
        """Start an attempt at a replica that was not tried yet; return whether there was one."""
        replica = self._choose_replica(request)
        if replica is None:
            return False
        request.tried.add(replica)
        request.attempts += 1
        coroutine = self._attempt.run(replica, request.arrays, request.label, request.deadline, request.attempts)
        task = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(_retrieve_error)
        request.in_flight[task] = replica
        replica.track(task)
        return True

    def _choose_replica(self, request: _Request) -> Replica | None:
        """Choose among untried replicas that serve the label, else among those not ejected, else among all."""
        now = self._clock.monotonic()
        left = [replica for replica in self._replicas() if replica not in request.tried]
        serving = [replica for replica in left if replica.serves(request.label)]
        usable = [replica for replica in left if not replica.ejected]
        return choose(serving or usable or left, now, self._draw)

    async def _wait_for_attempt(self, request: _Request) -> Answer | None:
        """Wait until an attempt ends, hedging once; return its answer, or None where it failed."""
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
        another = any(replica.serves(request.label) for replica in self._replicas() if replica not in request.tried)
        if another and self._hedges.spend() and self._start(request):
            self._meter.count("hedge")

    def _outcome(self, request: _Request, replica: Replica, task: asyncio.Task[Answer]) -> Answer | None:
        """Return the answer, raise a final error, or return None where another replica may be tried."""
        error = None if task.cancelled() else task.exception()
        if task.cancelled():  # the replica was ejected while it had the request
            self._record_failure(request, replica, FailureKind.LOST, None)
        elif error is None:
            return task.result()
        elif isinstance(error, AttemptFailed):
            self._record_failure(request, replica, error.kind, error.error)
        elif isinstance(error, Problem) and self._serves_other_version(request, replica):
            # While a label moves from replica to replica, both signatures are live; nothing was sent yet.
            request.mismatch = error
        else:
            raise error
        return None

    def _serves_other_version(self, request: _Request, tried: Replica) -> bool:
        """Return whether an untried replica has another version under the label than `tried`."""
        known = tried.fresh_metadata(request.label)
        left = (replica for replica in self._replicas() if replica not in request.tried and not replica.ejected)
        views = (replica.fresh_metadata(request.label) for replica in left)
        return any(view is not None and (known is None or view.version != known.version) for view in views)

    def _record_failure(
        self, request: _Request, replica: Replica, kind: FailureKind, error: TFSDeployError | None
    ) -> None:
        """Record a failed attempt; raise Problem where no other may follow."""
        request.failed = error or request.failed
        self._meter.count("failed_attempt", replica=replica.target, kind=kind.value)
        logger.info("%s: attempt %d at %s was %s", request.request_id, request.attempts, replica.target, kind.value)
        if kind is FailureKind.FINAL and error is not None:
            raise from_error(error, self._attempt.model)
        if kind is FailureKind.LOST:
            request.lost += 1

    # --- no replica answers -------------------------------------------------------------------------------------------

    async def _back_off(self, request: _Request) -> None:
        """Wait before all replicas are tried again; raise Problem where that would be too late."""
        replicas = self._replicas()
        nowhere = bool(replicas) and all(replica.lacks(request.label) for replica in replicas)
        if nowhere and request.policy is not RetryPolicy.WAIT_FOR_LABEL:
            raise not_found(
                f"Model {self._attempt.model!r} has no label {request.label!r}; use one that GET /v1/models lists."
            )
        pause = request.pause * (0.5 + 0.5 * self._draw.random())
        now = self._clock.monotonic()
        if now >= request.deadline:
            raise too_late(f"Model {self._attempt.model!r} did not answer before the request's deadline; try again.")
        if now + pause >= request.retry_until or request.policy is RetryPolicy.NO_WAIT:
            raise self._no_answer(request)
        await asyncio.sleep(pause)
        request.pause = min(request.pause * 2.0, _MAX_PAUSE)
        request.tried.clear()
        self._meter.count("round")

    def _no_answer(self, request: _Request) -> Problem:
        model = self._attempt.model
        if isinstance(request.failed, NotFound):
            under = "" if request.label == NEWEST else f" under the {describe_label(request.label)}"
            return unavailable(f"Model {model!r} has no version{under} at the moment; try again later.")
        if isinstance(request.failed, DeadlineExceeded) or request.failed is None:
            return unavailable(f"No model server answered in time for model {model!r}; try again.")
        return from_error(request.failed, model)


def _retrieve_error(task: asyncio.Task[Answer]) -> None:
    """Retrieve the error of an abandoned attempt, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
