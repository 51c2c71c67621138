"""One model behind the gateway: requests in, answers of the version that a label means out."""

from __future__ import annotations

import asyncio
import random

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.gateway.config import GatewayConfig, ModelConfig
from tfs_deploy.gateway.upstream.admission import Admission
from tfs_deploy.gateway.upstream.answer import Answer, Arrays, Meter, NoMeter
from tfs_deploy.gateway.upstream.attempt import LOOK_AGAIN_SECONDS, Attempt
from tfs_deploy.gateway.upstream.calls import Calls, Patience
from tfs_deploy.gateway.upstream.connections import Connections
from tfs_deploy.gateway.upstream.guard import Guard
from tfs_deploy.gateway.upstream.micro_batching import MicroBatcher
from tfs_deploy.gateway.upstream.watch import Resolve, Watch
from tfs_deploy.serving.group import parse_targets
from tfs_deploy.serving.protocol import Metadata
from tfs_deploy.serving.signature import Signature


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
        self._watch = Watch(
            self.name,
            model.replicas or config.replicas,
            (model.label, *_others(model)),
            health=config.health,
            connections=connections,
            clock=clock,
            meter=meter,
            resolve=resolve,
        )
        self._calls = Calls(
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
                self.name, model.micro_batching, self._in_turn, self._rows, self._joinable, clock=clock, meter=meter
            )

    async def start(self) -> None:
        """Ask every replica once, and keep asking; replicas that do not answer are no error."""
        await self._watch.start()

    async def stop(self, grace: float) -> bool:
        """Let nobody in, wait up to `grace` seconds for the requests inside; tell whether all were answered."""
        self.admission.close()
        drained = await self.admission.drained(grace)
        await self._watch.stop()
        return drained

    async def predict(self, inputs: Arrays, *, label: str, deadline: float, request_id: str) -> Answer:
        """Return the answer of the version that `label` means; raise Problem; `deadline` is monotonic seconds."""
        with self.admission.let_in():
            self._watch.asked()
            send = self._batcher.predict if self._batcher else self._in_turn
            return await send(inputs, label=label, deadline=deadline, request_id=request_id)

    async def ready(self) -> bool:
        """Tell whether there is a version to answer on at least one replica."""
        label = self._config.label
        if not any(replica.serves(label) for replica in self._watch.replicas):
            await asyncio.gather(*(replica.probe(label) for replica in self._watch.replicas))
        return any(replica.serves(label) for replica in self._watch.replicas)

    def signature(self, label: str = "") -> tuple[int, Signature] | None:
        """Return the version that `label` means and its signature, if that is known at the moment."""
        metadata = self._known(label or self._config.label)
        found = metadata and metadata.signatures.get(self._config.signature)
        return (metadata.version, found) if metadata and found else None

    def live_version(self) -> int | None:
        """Return the version that the model's label meant when that was asked last: seldom while nobody asks."""
        views = (replica.last(self._config.label) for replica in self._watch.replicas)
        return next((view.version for view in views if view), None)

    async def look_again(self, label: str, deadline: float) -> None:
        """Ask what `label` means now, unless that was asked a moment ago; raises nothing."""
        label = label or self._config.label
        newest = self._clock.monotonic() - LOOK_AGAIN_SECONDS
        asked = [replica for replica in self._watch.replicas if replica.serves(label)]
        questions = (replica.resolve(label, deadline, newer_than=newest) for replica in asked)
        await asyncio.gather(*questions, return_exceptions=True)

    def replicas(self) -> dict[str, bool]:
        """Return the addresses, and whether each is asked at the moment."""
        return {replica.target: not replica.ejected for replica in self._watch.replicas}

    def loads(self) -> dict[str, int]:
        """Return the addresses, and how many requests are under way at each."""
        return {replica.target: replica.load.outstanding for replica in self._watch.replicas}

    async def _in_turn(self, arrays: Arrays, *, label: str, deadline: float, request_id: str) -> Answer:
        async with self.admission.turn(deadline):
            patience = self._patience(label)
            return await self._calls.send(
                arrays, label=label, deadline=deadline, patience=patience, request_id=request_id
            )

    def _patience(self, label: str) -> Patience:
        if label == self._config.label:
            return Patience.FULL
        return Patience.REPLICAS if label in self._config.labels else Patience.NONE

    def _known(self, label: str) -> Metadata | None:
        return next((found for replica in self._watch.replicas if (found := replica.known(label))), None)

    def _rows(self, arrays: Arrays, label: str) -> tuple[int, int] | None:
        """Return how many rows `arrays` have, by which version; None where they must go alone, misfits among them."""
        metadata = self._known(label)
        if metadata is None or self._batcher is None or not self._batcher.may_join(metadata.version):
            return None
        rows = self._guard.rows(metadata, arrays)
        return None if rows is None else (rows, metadata.version)

    def _joinable(self, version: int, label: str) -> bool:
        """Tell whether `version`, which has answered under `label` just now, takes the rows of several requests."""
        views = (replica.known(label) for replica in self._watch.replicas)
        return any(self._guard.batched(view) for view in views if view is not None and view.version == version)


def _others(model: ModelConfig) -> tuple[str, ...]:
    return (*model.labels, *(part.label for part in (model.canary, model.shadow) if part))
