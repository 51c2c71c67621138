"""One model behind the gateway: the label of a request (own, canary, shadow), admission, batching and replicas."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Mapping
from typing import Protocol

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.gateway.config import Canary, GatewayConfig, ModelConfig, Shadow
from tfs_deploy.gateway.problem import Problem, not_found
from tfs_deploy.gateway.upstream.admission import Admission
from tfs_deploy.gateway.upstream.answer import Answer, Arrays, Meter, NoMeter, Predictor
from tfs_deploy.gateway.upstream.attempt import MIN_REFRESH_SECONDS, Attempt, Guard
from tfs_deploy.gateway.upstream.calls import ReplicaCalls, RetryPolicy
from tfs_deploy.gateway.upstream.micro_batching import MicroBatcher
from tfs_deploy.gateway.upstream.watch import Connections, ReplicaWatch, Resolve
from tfs_deploy.serving.group import parse_targets
from tfs_deploy.serving.replies import Metadata
from tfs_deploy.serving.signature import Signature

logger = logging.getLogger(__name__)

# The bits of a digest that a float holds exactly.
_HASH_BITS = 53
# The share of a request's time for the canary, before the model's own label is tried.
_CANARY_TIME_SHARE = 0.5


class Upstream:
    """One configured model; `start`, `predict` and `stop` on one event loop."""

    def __init__(
        self,
        name: str,
        config: GatewayConfig,
        connections: Connections,
        *,
        clock: Clock | None = None,
        draw: random.Random | None = None,
        meter: Meter | None = None,
        resolve: Resolve = parse_targets,
    ) -> None:
        model: ModelConfig = config.models[name]
        self.name = model.model or name
        self._config = model
        clock, meter = clock or SystemClock(), meter or NoMeter()
        self._clock = clock
        self._guard = Guard(model.signature, model.outputs, model.ranks)
        self._watch = ReplicaWatch(
            self.name,
            model.replicas or config.replicas,
            (model.label, *_other_labels(model)),
            health=config.health,
            connections=connections,
            clock=clock,
            meter=meter,
            resolve=resolve,
        )
        self._calls = ReplicaCalls(
            lambda: self._watch.replicas,
            Attempt(self.name, model.signature, model.outputs, self._guard, clock),
            retries=config.retries,
            hedging=model.hedging,
            clock=clock,
            draw=draw or random.Random(),  # noqa: S311 - which replica is asked is no secret
            meter=meter,
        )
        self.admission = Admission(self.name, config.limits.concurrency, config.limits.queue, clock)
        self._batcher: MicroBatcher | None = None
        if model.micro_batching is not None:
            self._batcher = MicroBatcher(
                self.name,
                model.micro_batching,
                self._predict_in_slot,
                self._rows,
                self._joinable,
                clock=clock,
                meter=meter,
            )

    async def start(self) -> None:
        """Query every replica once, and go on in the background; unavailable replicas are no error."""
        await self._watch.start()

    async def stop(self, grace: float) -> bool:
        """Admit no requests, wait up to `grace` seconds for admitted ones; return whether all were answered."""
        self.admission.close()
        drained = await self.admission.drained(grace)
        await self._watch.stop()
        return drained

    async def predict(self, inputs: Arrays, *, label: str, deadline: float, request_id: str) -> Answer:
        """Return the answer of the version under `label`; raise Problem; `deadline` is monotonic seconds."""
        with self.admission.admit():
            self._watch.record_request()
            send = self._batcher.predict if self._batcher else self._predict_in_slot
            return await send(inputs, label=label, deadline=deadline, request_id=request_id)

    async def ready(self) -> bool:
        """Return whether at least one replica serves the model's label."""
        label = self._config.label
        if not any(replica.serves(label) for replica in self._watch.replicas):
            await asyncio.gather(*(replica.probe(label) for replica in self._watch.replicas))
        return any(replica.serves(label) for replica in self._watch.replicas)

    def signature(self, label: str = "") -> tuple[int, Signature] | None:
        """Return the version under `label` and its signature, if known at the moment."""
        metadata = self._known(label or self._config.label)
        signature = metadata and metadata.signatures.get(self._config.signature)
        return (metadata.version, signature) if metadata and signature else None

    def live_version(self) -> int | None:
        """Return the version under the model's label as last queried, which is rarely while there are no requests."""
        views = (replica.last_metadata(self._config.label) for replica in self._watch.replicas)
        return next((view.version for view in views if view), None)

    async def refresh_label(self, label: str, deadline: float) -> None:
        """Query `label` again unless it was queried within `MIN_REFRESH_SECONDS`; raises nothing."""
        label = label or self._config.label
        newest = self._clock.monotonic() - MIN_REFRESH_SECONDS
        serving = [replica for replica in self._watch.replicas if replica.serves(label)]
        queries = (replica.resolve(label, deadline, newer_than=newest) for replica in serving)
        await asyncio.gather(*queries, return_exceptions=True)

    def replicas(self) -> dict[str, bool]:
        """Return the addresses, and whether each one gets requests at the moment."""
        return {replica.target: not replica.ejected for replica in self._watch.replicas}

    def loads(self) -> dict[str, int]:
        """Return the addresses, and the number of requests in flight at each."""
        return {replica.target: replica.load.outstanding for replica in self._watch.replicas}

    async def _predict_in_slot(self, arrays: Arrays, *, label: str, deadline: float, request_id: str) -> Answer:
        async with self.admission.slot(deadline):
            policy = self._policy(label)
            return await self._calls.send(arrays, label=label, deadline=deadline, policy=policy, request_id=request_id)

    def _policy(self, label: str) -> RetryPolicy:
        if label == self._config.label:
            return RetryPolicy.WAIT_FOR_LABEL
        return RetryPolicy.WAIT_FOR_REPLICA if label in self._config.labels else RetryPolicy.NO_WAIT

    def _known(self, label: str) -> Metadata | None:
        return next((metadata for replica in self._watch.replicas if (metadata := replica.fresh_metadata(label))), None)

    def _rows(self, arrays: Arrays, label: str) -> tuple[int, int] | None:
        """Return the number of rows in `arrays` and the version it was read from; None where they cannot be joined."""
        metadata = self._known(label)
        if metadata is None or self._batcher is None or not self._batcher.may_join(metadata.version):
            return None
        rows = self._guard.rows(metadata, arrays)
        return None if rows is None else (rows, metadata.version)

    def _joinable(self, version: int, label: str) -> bool:
        """Return whether `version`, which has just answered under `label`, has a batch dimension."""
        views = (replica.fresh_metadata(label) for replica in self._watch.replicas)
        return any(self._guard.batched(view) for view in views if view is not None and view.version == version)


def _other_labels(model: ModelConfig) -> tuple[str, ...]:
    return (*model.labels, *(part.label for part in (model.canary, model.shadow) if part))


class SpareCapacity(Protocol):
    """Reports whether shadow copies would delay no request."""

    @property
    def has_spare_capacity(self) -> bool:
        """Return whether capacity is spare."""


class Traffic:
    """Chooses the label of each request: the model's own, the canary's for a share, and copies to the shadow."""

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        upstream: Predictor,
        *,
        capacity: SpareCapacity,
        shadow_seconds: float = 10.0,
        clock: Clock | None = None,
        draw: random.Random | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._name = name
        self._config = config
        self._upstream = upstream
        self._capacity = capacity
        self._shadow_seconds = shadow_seconds
        self._clock = clock or SystemClock()
        self._draw = draw or random.Random()  # noqa: S311 - which version answers is no secret
        self._meter = meter or NoMeter()
        self._shadows: set[asyncio.Task[None]] = set()
        self._canary_failed = ""

    async def predict(
        self, inputs: Arrays, *, label: str | None, headers: Mapping[str, str], deadline: float, request_id: str
    ) -> Answer:
        """Return the answer; `label` is the one in the URL, or None; raise Problem.

        `headers` must look names up without regard to case. Where the canary fails, the model's own label answers.
        """
        if label is None:
            answer = await self._predict_with_canary(inputs, headers, deadline, request_id)
        elif label in (self._config.label, *self._config.labels):
            answer = await self._upstream.predict(inputs, label=label, deadline=deadline, request_id=request_id)
        else:
            raise not_found(f"Model {self._name!r} has no label {label!r}.")
        self._start_shadow(inputs, answer.label, request_id)
        return answer

    async def stop(self) -> None:
        """Cancel the shadow copies in flight."""
        shadows = tuple(self._shadows)
        for task in shadows:
            task.cancel()
        await asyncio.gather(*shadows, return_exceptions=True)

    # --- canary -----------------------------------------------------------------------------------------------------

    async def _predict_with_canary(
        self, inputs: Arrays, headers: Mapping[str, str], deadline: float, request_id: str
    ) -> Answer:
        canary = self._config.canary
        if canary is not None and self._selects_canary(canary, headers):
            now = self._clock.monotonic()
            until = now + (deadline - now) * _CANARY_TIME_SHARE
            try:
                answer = await self._upstream.predict(inputs, label=canary.label, deadline=until, request_id=request_id)
            except Problem as problem:
                self._record_canary(problem)
            else:
                self._record_canary(None)
                return answer
        return await self._upstream.predict(inputs, label=self._config.label, deadline=deadline, request_id=request_id)

    def _selects_canary(self, canary: Canary, headers: Mapping[str, str]) -> bool:
        value = headers.get(canary.sticky_header) if canary.sticky_header else None
        share = self._draw.random() if not value else sticky_fraction(self._name, value)
        return share * 100.0 < canary.percent

    def _record_canary(self, problem: Problem | None) -> None:
        """Count a failure of the canary, and log it once until the canary answers or fails in another way."""
        failed = "" if problem is None else f"{problem.status} {problem.title}"
        if problem is not None:
            self._meter.count("canary_fell_back", status=str(problem.status))
            if failed != self._canary_failed:
                logger.warning(
                    "The canary of %s does not answer; its requests go to the model's own label: %s",
                    self._name,
                    problem,
                )
        self._canary_failed = failed

    # --- shadow -----------------------------------------------------------------------------------------------------

    def _start_shadow(self, inputs: Arrays, answered: str, request_id: str) -> None:
        """Send a copy to the shadow after the answer, unless that could delay other requests."""
        shadow = self._config.shadow
        if shadow is None or shadow.label == answered or self._draw.random() * 100.0 >= shadow.percent:
            return
        if len(self._shadows) >= shadow.parallel or not self._capacity.has_spare_capacity:
            self._meter.count("shadow_dropped")
            return
        task = asyncio.get_running_loop().create_task(self._send_shadow(shadow, inputs, request_id))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _send_shadow(self, shadow: Shadow, inputs: Arrays, request_id: str) -> None:
        started = self._clock.monotonic()
        try:
            await self._upstream.predict(
                inputs, label=shadow.label, deadline=started + self._shadow_seconds, request_id=f"{request_id}-shadow"
            )
        except Problem as problem:
            self._meter.count("shadow_failed", status=str(problem.status))
            logger.debug("The shadow copy of %s was not answered: %s", request_id, problem)
        except Exception:  # of any kind, because nothing awaits this task
            logger.exception("The shadow copy of %s failed", request_id)
        else:
            self._meter.count("shadow_answered")
            self._meter.observe("shadow_seconds", self._clock.monotonic() - started)


def sticky_fraction(model: str, value: str) -> float:
    """Return a number from 0 to 1 for `value`: constant for one model, and uniform over values.

    A canary that grows keeps its clients: a number below 5 % is below 10 % too.
    """
    digest = hashlib.blake2b(f"{model}\0{value}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return float(int.from_bytes(digest, "big") >> (64 - _HASH_BITS)) / 2.0**_HASH_BITS
