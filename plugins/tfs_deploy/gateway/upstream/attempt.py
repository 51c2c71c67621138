"""One attempt: ask one replica, by the number of the version that its label means, what the guard has let through."""

from __future__ import annotations

from collections.abc import Sequence

from tfs_deploy.clock import Clock
from tfs_deploy.errors import DeadlineExceeded, InvalidInput, NotFound, TFSDeployError
from tfs_deploy.gateway.problem import Problem
from tfs_deploy.gateway.upstream.answer import Answer, Arrays
from tfs_deploy.gateway.upstream.failures import Fate, fate_of
from tfs_deploy.gateway.upstream.guard import Guard
from tfs_deploy.gateway.upstream.replica import Replica
from tfs_deploy.serving.protocol import Metadata, Prediction

# An input that does not fit makes the gateway look whether the label has moved, unless it looked so short a time ago:
# otherwise strangers could have the model servers asked as often as they like.
LOOK_AGAIN_SECONDS = 0.05


class Failed(Exception):
    """An attempt that ended without an answer."""

    def __init__(self, fate: Fate, error: TFSDeployError) -> None:
        super().__init__(fate, error)
        self.fate = fate
        self.error = error


class Attempt:
    """Knows the model, the signature and the outputs that are asked for."""

    def __init__(self, model: str, signature: str, outputs: Sequence[str], guard: Guard, clock: Clock) -> None:
        self.model = model
        self._signature = signature
        self._outputs = tuple(outputs)
        self._guard = guard
        self._clock = clock

    async def run(self, replica: Replica, arrays: Arrays, label: str, deadline: float, number: int) -> Answer:
        """Return the answer of `replica`; raise Problem where the input is at fault, Failed otherwise."""
        checked = await self._checked(replica, arrays, label, deadline)
        try:
            prediction = await self._predict(replica, checked, arrays, deadline)
        except NotFound:
            # The version was there a moment ago and is not now, so nothing ran: see once what the label means now.
            now = self._clock.monotonic()
            checked = await self._checked(replica, arrays, label, deadline, newer_than=now)
            try:
                prediction = await self._predict(replica, checked, arrays, deadline)
            except NotFound as error:
                raise Failed(Fate.ABSENT, error) from error
        return Answer(prediction.outputs, self.model, prediction.version, label, replica.target, number)

    async def _checked(
        self, replica: Replica, arrays: Arrays, label: str, deadline: float, newer_than: float | None = None
    ) -> Metadata:
        """Return the version to ask, after its signature was compared with `arrays`."""
        metadata = await self._resolved(replica, label, deadline, newer_than)
        try:
            self._guard.check(metadata, arrays)
        except Problem:
            # The label may have moved to a version that takes this.
            newest = self._clock.monotonic() - LOOK_AGAIN_SECONDS
            metadata = await self._resolved(replica, label, deadline, newest)
            self._guard.check(metadata, arrays)
        return metadata

    async def _resolved(self, replica: Replica, label: str, deadline: float, newer_than: float | None) -> Metadata:
        try:
            return await replica.resolve(label, deadline, newer_than=newer_than)
        except NotFound as error:
            raise Failed(Fate.ABSENT, error) from error
        except TFSDeployError as error:  # a question that has no answer costs the request nothing: ask another replica
            raise Failed(Fate.REFUSED, error) from error

    async def _predict(self, replica: Replica, checked: Metadata, arrays: Arrays, deadline: float) -> Prediction:
        started = self._clock.monotonic()
        if deadline <= started:
            raise Failed(
                Fate.FINAL, DeadlineExceeded(f"The time for a request to {self.model!r} is over.", "Try again.")
            )
        try:
            prediction = await replica.client.predict(
                self.model,
                dict(arrays),
                version=checked.version,
                signature=self._signature,
                outputs=self._outputs,
                timeout=deadline - started,
            )
        except NotFound:
            raise
        except DeadlineExceeded as error:
            self._note_time(replica, started)
            raise Failed(Fate.FINAL, error) from error
        except TFSDeployError as error:
            fate = fate_of(error)
            if fate in (Fate.REFUSED, Fate.LOST) and not isinstance(error, InvalidInput):
                replica.failed(error)
            raise Failed(fate, error) from error
        self._note_time(replica, started)
        return prediction

    def _note_time(self, replica: Replica, started: float) -> None:
        now = self._clock.monotonic()
        replica.load.answered(now, now - started)
