"""Micro-batching: requests that arrive within a few milliseconds of each other become one Predict call.

Requests are joined along the batch dimension where they have the same label and arrays of the same names, dtypes and
other dimensions. A joined request that fails is sent again in its parts, so that no client gets an error that another
client's input caused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tfs_deploy.clock import Clock
from tfs_deploy.gateway.config import MicroBatching
from tfs_deploy.gateway.problem import Problem, internal, too_late
from tfs_deploy.gateway.upstream.answer import Answer, Arrays, Meter

BatchKey = tuple[tuple[str, str, tuple[int, ...]], ...]
logger = logging.getLogger(__name__)
# Statuses that the rows of another client may have caused; any other error would repeat for every part.
_STATUSES_TO_SPLIT = {422, 502}


def batch_key(arrays: Arrays) -> BatchKey:
    """Return the key of requests that may be joined: names, dtypes, and all dimensions but the first."""
    return tuple((alias, array.dtype.str, array.shape[1:]) for alias, array in sorted(arrays.items()))


def join(requests: Sequence[Arrays]) -> dict[str, npt.NDArray[np.generic]]:
    """Return the rows of `requests`, which have one key, as one request."""
    if len(requests) == 1:
        return dict(requests[0])
    return {alias: np.concatenate([request[alias] for request in requests]) for alias in requests[0]}


def split(outputs: Arrays, counts: Sequence[int]) -> list[dict[str, npt.NDArray[np.generic]]] | None:
    """Return the outputs of each request, `counts[i]` rows for request i; None where the total number differs."""
    total = sum(counts)
    if any(not array.ndim or array.shape[0] != total for array in outputs.values()):
        return None
    parts: list[dict[str, npt.NDArray[np.generic]]] = []
    start = 0
    for count in counts:
        parts.append({alias: array[start : start + count] for alias, array in outputs.items()})
        start += count
    return parts


class Send(Protocol):
    """Sends one request, joined or not, to the model servers."""

    async def __call__(self, arrays: Arrays, *, label: str, deadline: float, request_id: str) -> Answer:
        """Return the answer; raise Problem."""


@dataclass(slots=True, eq=False)
class _Member:
    """One client's request in a batch."""

    arrays: Arrays
    rows: int
    version: int
    deadline: float
    request_id: str
    answer: asyncio.Future[Answer]


@dataclass(slots=True)
class _Group:
    """The waiting requests of one key, and the number of calls in flight."""

    waiting: list[_Member] = field(default_factory=list)
    rows: int = 0
    timer: asyncio.TimerHandle | asyncio.Handle | None = None
    in_flight: int = 0


class MicroBatcher:
    """Joins requests for one model.

    `rows` returns the number of rows of a request, and the version that it was read from; None where the request cannot
    be joined. `joinable` returns whether a version has a batch dimension: the label may move while requests wait.
    """

    def __init__(
        self,
        model: str,
        options: MicroBatching,
        send: Send,
        rows: Callable[[Arrays, str], tuple[int, int] | None],
        joinable: Callable[[int, str], bool],
        *,
        clock: Clock,
        meter: Meter,
    ) -> None:
        self._model = model
        self._options = options
        self._send = send
        self._rows = rows
        self._joinable = joinable
        self._clock = clock
        self._meter = meter
        self._groups: dict[tuple[str, BatchKey], _Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Versions that answered with another number of rows than were sent.
        self._unjoinable: set[int] = set()

    @property
    def kinds(self) -> int:
        """Return the number of keys with requests that wait or are in flight."""
        return len(self._groups)

    def may_join(self, version: int) -> bool:
        """Return whether `version` has always answered with one row per row."""
        return version not in self._unjoinable

    async def predict(self, arrays: Arrays, *, label: str, deadline: float, request_id: str) -> Answer:
        """Return the answer to `arrays`, which may be joined with others; raise Problem."""
        rows, version = self._rows(arrays, label) or (self._options.max_rows, 0)
        if rows >= self._options.max_rows:
            return await self._send(arrays, label=label, deadline=deadline, request_id=request_id)
        loop = asyncio.get_running_loop()
        member = _Member(arrays, rows, version, deadline, request_id, loop.create_future())
        self._add((label, batch_key(arrays)), member)
        try:
            await asyncio.wait({member.answer}, timeout=max(0.0, deadline - self._clock.monotonic()))
        finally:
            if not member.answer.cancel():
                member.answer.exception()  # retrieved, even where this task was cancelled
        if member.answer.cancelled():
            raise too_late(f"Model {self._model!r} did not answer before the request's deadline; try again.")
        return member.answer.result()

    def _add(self, key: tuple[str, BatchKey], member: _Member) -> None:
        group = self._groups.setdefault(key, _Group())
        if group.rows + member.rows > self._options.max_rows:
            self._flush(key)
            group = self._groups.setdefault(key, _Group())
        group.waiting.append(member)
        group.rows += member.rows
        if group.rows >= self._options.max_rows:
            self._flush(key)
        elif group.timer is None:
            group.timer = self._timer(key, group)

    def _timer(self, key: tuple[str, BatchKey], group: _Group) -> asyncio.TimerHandle | asyncio.Handle:
        loop = asyncio.get_running_loop()
        if self._options.eager and not group.in_flight:
            # Not now: other requests of this iteration of the loop may join.
            return loop.call_soon(self._flush, key)
        return loop.call_later(self._options.wait_ms / 1000.0, self._flush, key)

    def _flush(self, key: tuple[str, BatchKey]) -> None:
        group = self._groups[key]
        if group.timer is not None:
            group.timer.cancel()
            group.timer = None
        members, group.waiting, group.rows = group.waiting, [], 0
        members = [member for member in members if not member.answer.done()]
        if members:
            group.in_flight += 1
            task = asyncio.get_running_loop().create_task(self._run(key, members))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif not group.in_flight:  # all clients disconnected
            del self._groups[key]

    async def _run(self, key: tuple[str, BatchKey], members: list[_Member]) -> None:
        try:
            await self._send_joined(key[0], members)
        except Exception:  # of any kind, because nothing else awaits this task
            logger.exception("A batch for %s failed", self._model)
        finally:
            self._call_done(key)
            for member in members:
                _fail(member, internal())

    def _call_done(self, key: tuple[str, BatchKey]) -> None:
        group = self._groups[key]
        group.in_flight -= 1
        if group.in_flight:
            return
        if not group.waiting:
            del self._groups[key]  # clients choose shapes, so keys without requests must not accumulate
        elif self._options.eager and group.timer is not None:
            group.timer.cancel()
            group.timer = self._timer(key, group)

    async def _send_joined(self, label: str, members: list[_Member]) -> None:
        self._meter.observe("batch_rows", float(sum(member.rows for member in members)))
        if len(members) == 1:
            await self._send_one(label, members[0])
            return
        try:
            answer = await self._send(
                join([member.arrays for member in members]),
                label=label,
                deadline=max(member.deadline for member in members),
                request_id=",".join(member.request_id for member in members),
            )
        except Problem as problem:
            if problem.status in _STATUSES_TO_SPLIT:
                await self._send_separately(label, members)
            else:
                for member in members:
                    _fail(member, problem)
            return
        if any(member.version != answer.version for member in members) and not self._joinable(answer.version, label):
            # The version has no batch dimension; an equal number of rows is a coincidence.
            await self._send_separately(label, members)
            return
        parts = split(answer.outputs, [member.rows for member in members])
        if parts is None:
            logger.warning("%s version %s does not answer row by row", self._model, answer.version)
            self._unjoinable.add(answer.version)
            await self._send_separately(label, members)
            return
        for member, outputs in zip(members, parts, strict=True):
            if not member.answer.done():
                member.answer.set_result(replace(answer, outputs=outputs))

    async def _send_separately(self, label: str, members: list[_Member]) -> None:
        self._meter.count("batch_taken_apart")
        await asyncio.gather(*(self._send_one(label, member) for member in members if not member.answer.done()))

    async def _send_one(self, label: str, member: _Member) -> None:
        try:
            answer = await self._send(
                member.arrays, label=label, deadline=member.deadline, request_id=member.request_id
            )
        except Problem as problem:
            _fail(member, problem)
        else:
            if not member.answer.done():
                member.answer.set_result(answer)


def _fail(member: _Member, problem: Problem) -> None:
    if not member.answer.done():
        # A new exception for each, because one that is raised in several tasks collects all their tracebacks.
        member.answer.set_exception(
            Problem(problem.status, problem.title, problem.detail, retry_after=problem.retry_after, extra=problem.extra)
        )
