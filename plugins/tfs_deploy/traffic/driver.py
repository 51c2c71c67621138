"""Sends requests at a fixed rate, whatever the servers do: a server that stalls delays no later request.

Request `k` is due `k / rate` seconds after the start, and its latency counts from then on. Nothing is tried again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tfs_deploy.clock import Clock
from tfs_deploy.errors import CorruptModel, InvalidInput, TFSDeployError
from tfs_deploy.serving import rpc
from tfs_deploy.serving.client import AsyncModelServerClient
from tfs_deploy.serving.codec.predict import decode_predict_response, encode_predict_request
from tfs_deploy.serving.group import TLSOptions
from tfs_deploy.serving.replies import Metadata
from tfs_deploy.serving.rpc_calls import Address, CallFailed
from tfs_deploy.serving.signature import check_inputs
from tfs_deploy.traffic.report import Phase, TrafficRecorder, TrafficReport
from tfs_deploy.traffic.requests import TrafficRequest

# Above this one process cannot keep the rate.
MAX_RATE = 5000.0
MAX_CONCURRENCY = 10_000
# The code of a request that waited for its turn until its time was over.
NOT_SENT = "NOT_SENT"
# The code of an answer that cannot be read.
UNREADABLE = "DATA_LOSS"


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """What to send, and how: `rate` per second, `timeout` and `seconds` in seconds; `seconds` None: until stopped.

    At most `concurrency` requests are under way at once; more wait, and their latency counts from when they were due.
    Raises InvalidInput for numbers out of range.
    """

    address: Address
    targets: tuple[str, ...]
    rate: float = 10.0
    timeout: float = 5.0
    concurrency: int = 100
    seconds: float | None = None
    tls: TLSOptions | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        limits = {
            "rate": (self.rate, MAX_RATE),
            "timeout": (self.timeout, 3600.0),
            "concurrency": (self.concurrency, MAX_CONCURRENCY),
            "duration": (1.0 if self.seconds is None else self.seconds, math.inf),
        }
        for name, (value, most) in limits.items():
            if not 0 < value <= most or math.isinf(value):
                raise InvalidInput(f"The {name} {value:g} is not usable.", f"Give a number above 0, at most {most:g}.")


class _Replica(AsyncModelServerClient):
    """A client that also sends a Predict as it is: no retry, no look at the signature before it."""

    async def predict_bytes(self, request: bytes, seconds: float) -> bytes:
        return await self._send(rpc.PREDICT, request, seconds)


class TrafficDriver:
    """One run of a plan; use it as an asynchronous context manager, which opens and closes the connections."""

    def __init__(self, plan: TrafficPlan, clock: Clock) -> None:
        self.plan = plan
        self.recorder = TrafficRecorder(clock)
        self._clock = clock
        self._replicas = [_Replica(target, tls=plan.tls) for target in plan.targets]
        self._requests: Sequence[TrafficRequest] = ()
        self._encoded: Sequence[bytes] = ()
        self._metadata: dict[str, Metadata] = {}
        self._checked: set[int] = set()
        self._checks: set[asyncio.Task[None]] = set()
        self._ended_early = ""

    async def __aenter__(self) -> TrafficDriver:
        return self

    async def __aexit__(self, *error: object) -> None:
        for replica in self._replicas:
            await replica.close()

    async def connect(self) -> Mapping[str, Metadata]:
        """Return the version and the signatures that the address stands for, per replica that answers.

        Raises the error of the first replica if none answers.
        """
        address = self.plan.address

        async def ask(replica: _Replica) -> Metadata | TFSDeployError:
            try:
                return await replica.metadata(
                    address.model, version=address.version, label=address.label, timeout=self.plan.timeout
                )
            except TFSDeployError as error:
                return error

        answers = await asyncio.gather(*map(ask, self._replicas))
        errors = [answer for answer in answers if isinstance(answer, TFSDeployError)]
        if len(errors) == len(answers):
            raise errors[0]
        self._metadata = {
            target: answer
            for target, answer in zip(self.plan.targets, answers, strict=True)
            if isinstance(answer, Metadata)
        }
        return self._metadata

    async def run(self, requests: Sequence[TrafficRequest], stop: asyncio.Event) -> TrafficReport:
        """Send `requests` in turn until the time is over or `stop` is set; return the report once all have ended.

        Call `connect` first. Raises InvalidInput if a request does not fit the signatures of a serving version. A
        version that comes later and takes other inputs ends the run: a wrong input can end a model server
        (contract 20.1).
        """
        for metadata in self._metadata.values():
            self._check_requests(metadata, requests)
        self._requests = requests
        self._encoded = [
            encode_predict_request(self.plan.address.spec(request.signature), request.inputs) for request in requests
        ]
        self.recorder.start({target: metadata.version for target, metadata in self._metadata.items()})
        await self._send_all(stop)
        for check in self._checks:
            check.cancel()
        return self.recorder.report(ended_early=self._ended_early)

    async def _send_all(self, stop: asyncio.Event) -> None:
        start, places = self._clock.monotonic(), asyncio.Semaphore(self.plan.concurrency)
        stopping = asyncio.ensure_future(stop.wait())
        under_way: set[asyncio.Task[None]] = set()
        number = 0
        try:
            while not self._ended_early:
                due = start + number / self.plan.rate
                # Without a pause, too, the answers have their turn.
                await asyncio.wait({stopping}, timeout=max(0.0, due - self._clock.monotonic()))
                if stop.is_set() or self._is_over(number):
                    break
                phase = self.recorder.phase
                if await self._take_place(places, due):
                    task = asyncio.create_task(self._send(number, due, phase))
                    under_way.add(task)
                    task.add_done_callback(_release(places, under_way))
                else:
                    error = f"{self.plan.concurrency} requests were under way for {self.plan.timeout:g} s."
                    self.recorder.failed(phase, NOT_SENT, f"{NOT_SENT}: {error}")
                number += 1
            if under_way:
                await asyncio.wait(under_way)
        finally:
            stopping.cancel()
            for task in under_way:
                task.cancel()

    def _is_over(self, number: int) -> bool:
        return self.plan.seconds is not None and number >= self.plan.seconds * self.plan.rate

    async def _take_place(self, places: asyncio.Semaphore, due: float) -> bool:
        """Wait until fewer than `concurrency` requests are under way; False if the time of this one ended before."""
        if not places.locked():
            self.recorder.longest_start_delay = max(self.recorder.longest_start_delay, self._clock.monotonic() - due)
            await places.acquire()
            return True
        try:
            await asyncio.wait_for(places.acquire(), max(0.0, due + self.plan.timeout - self._clock.monotonic()))
        except asyncio.TimeoutError:  # the builtin one only from Python 3.11 on
            return False
        return True

    async def _send(self, number: int, due: float, phase: Phase) -> None:
        replica = self._replicas[number % len(self._replicas)]
        request = self._encoded[number // len(self._replicas) % len(self._encoded)]
        remaining = due + self.plan.timeout - self._clock.monotonic()
        try:
            if remaining <= 0:
                raise CallFailed("DEADLINE_EXCEEDED", "")
            version = _version_of(await replica.predict_bytes(request, remaining))
        except CallFailed as error:
            self._record_failure(phase, replica, error.code, error.details)
        except CorruptModel as error:
            self._record_failure(phase, replica, UNREADABLE, error.cause)
        else:
            self.recorder.answered(phase, replica.target, number, version, self._clock.monotonic() - due)
            self._check_version(replica, version)

    def _record_failure(self, phase: Phase, replica: _Replica, code: str, details: str) -> None:
        action = f"Predict on {self.plan.address}"
        error = rpc.to_error(code, details, target=replica.target, action=action, timeout=self.plan.timeout)
        self.recorder.failed(phase, code, f"{code}: {error.cause}")

    def _check_requests(self, metadata: Metadata, requests: Sequence[TrafficRequest]) -> None:
        for request in requests:
            where = f"signature {request.signature!r} of model {metadata.model!r} version {metadata.version}"
            if request.signature not in metadata.signatures:
                raise InvalidInput(
                    f"{request.source} asks {where}, which does not exist.",
                    f"Use one of: {', '.join(sorted(metadata.signatures)) or '(it has none)'}.",
                )
            check_inputs(metadata.signatures[request.signature], request.inputs, where=where)
        self._checked.add(metadata.version)

    def _check_version(self, replica: _Replica, version: int) -> None:
        if version not in self._checked:
            self._checked.add(version)
            check = asyncio.create_task(self._check_new_version(replica, version))
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def _check_new_version(self, replica: _Replica, version: int) -> None:
        model = self.plan.address.model
        try:
            metadata = await replica.metadata(model, version=version, timeout=self.plan.timeout)
            self._check_requests(metadata, self._requests)
        except InvalidInput as error:
            self._ended_early = f"Version {version} takes other inputs: {error.cause}"
        except TFSDeployError:  # the replica went away, or the version did: the next answer asks again
            self._checked.discard(version)


def _version_of(reply: bytes) -> int:
    """Return the version that a PredictResponse names; raise CorruptModel for one that cannot be read."""
    spec, _ = decode_predict_response(reply)
    if not spec.HasField("version"):
        raise CorruptModel("The reply does not say which version answered.", "Check that the target is TF Serving.")
    return int(spec.version.value)


def _release(places: asyncio.Semaphore, under_way: set[asyncio.Task[None]]) -> Callable[[asyncio.Task[None]], None]:
    def release(task: asyncio.Task[None]) -> None:
        places.release()
        under_way.discard(task)

    return release
