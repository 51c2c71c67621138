"""Processes for the CPU-heavy processors, so that decoding a picture never holds up the requests of others.

Each process is an executor of its own and has one job at a time: a job that hangs or takes its process down with it
ends alone, and the process is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

import msgspec
import numpy as np

from tfs_deploy.errors import InvalidInput, Unreachable
from tfs_deploy.gateway import problem
from tfs_deploy.gateway.config import ProcessorConfig
from tfs_deploy.gateway.processors import worker

logger = logging.getLogger(__name__)


class ProcessEnded(Exception):
    """The process ended while it had nothing to do; the job was not begun."""


class WorkerProcess:
    """A process with the processors in `configured` (as `worker.prepare` takes them)."""

    def __init__(self, configured: bytes) -> None:
        self._configured = configured
        self._executor: ProcessPoolExecutor | None = None
        self._context = _TrackingContext()
        self._jobs = 0
        # The number of the job that the process began last. It tells a job that ended a process from one that came
        # just after its end, which an executor does not.
        self._started_job = self._context.RawValue("Q", 0)

    async def start(self, seconds: float) -> None:
        """Start it and make its processors; raise InvalidInput or Unreachable."""
        self._context = _TrackingContext()
        self._executor = ProcessPoolExecutor(
            1, mp_context=self._context, initializer=worker.init_process, initargs=(self._started_job,)
        )
        try:
            failure = await _result(self._executor.submit(worker.make_processors, self._configured), seconds)
        except BrokenProcessPool as error:
            raise Unreachable("A process for processors ended while it started.", "Look at the logger.") from error
        except asyncio.TimeoutError as error:
            raise Unreachable(f"A process for processors did not start in {seconds:g} s.", "Try again.") from error
        if failure:
            raise InvalidInput(failure, "Correct the gateway's configuration.")

    async def run(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of one job; raise Gone or a Problem, after which this process has to be replaced."""
        if self._executor is None:
            raise ProcessEnded
        self._jobs += 1
        try:
            return await _result(self._executor.submit(worker.run_job, self._jobs, function, *arguments), seconds)
        except BrokenProcessPool:
            if self._started_job.value != self._jobs:
                raise ProcessEnded from None
            logger.warning("A process for processors ended in the middle of a job.")
            raise problem.internal() from None
        except asyncio.TimeoutError:
            logger.warning("A process for processors is ended after %g s with one job.", seconds)
            raise problem.too_late(f"The items took longer than {seconds:g} s to process.") from None

    async def stop(self) -> None:
        """Kill it: what it does is not wanted any more, and it may not listen."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        for process in self._context.started:
            process.kill()
        await asyncio.get_running_loop().run_in_executor(None, executor.shutdown)


class _TrackingContext(SpawnContext):
    """Spawns, and remembers which processes: an executor has no way to kill its own before Python 3.14.

    Not forked: the gateway has threads (gRPC's among them), whose locks a fork would copy.
    """

    def __init__(self) -> None:
        self.started: list[SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        process = SpawnProcess(*args, **kwargs)
        self.started.append(process)
        return process


async def _result(future: Future[Any], seconds: float) -> Any:
    return await asyncio.wait_for(asyncio.wrap_future(future), seconds)


# A new process imports numpy and Pillow (a second, more on a busy machine) and reads vocabularies.
START_SECONDS = 60.0
_RESTART_SECONDS = 1.0


class ProcessorPool:
    """`workers` processes (0: one per CPU this process may use) that hold every processor of `specs`, by its key.

    At most `queue` jobs wait; a job that takes longer than `timeout_seconds` is ended, with its process.
    """

    def __init__(
        self,
        specs: Mapping[str, ProcessorConfig],
        *,
        workers: int,
        queue: int,
        timeout_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers = [WorkerProcess(msgspec.json.encode(dict(specs))) for _ in range(workers or _cpus())]
        self._queue = queue
        self._timeout = timeout_seconds
        self._monotonic = monotonic
        self._waiting = 0
        self._stopping = False
        self._idle: asyncio.Queue[WorkerProcess] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def size(self) -> int:
        """Return how many processes there are."""
        return len(self._workers)

    @property
    def waiting(self) -> int:
        """Return how many jobs wait for a process."""
        return self._waiting

    async def start(self) -> None:
        """Start every process and make its processors; raise InvalidInput or Unreachable if that fails."""
        try:
            await asyncio.gather(*(one.start(START_SECONDS) for one in self._workers))
        except BaseException:
            await self.stop()
            raise
        for one in self._workers:
            self._idle.put_nowait(one)

    async def run(self, key: str, step: worker.Step, payload: Any, *, deadline: float) -> Any:
        """Return what `step` of the processor `key` makes of `payload`; `deadline` is on the monotonic clock.

        Raise BadItem, InvalidInput, BadAnswer or ProcessorMistake as the processor did, or a Problem: too many jobs
        wait, no time is left, the process ended.
        """
        if self._waiting >= self._queue and self._idle.empty():
            raise problem.too_busy("Too many items wait to be processed; try again.")
        while True:
            one = await self._next_idle(deadline)
            # A task of its own: a client that goes away must not take the process out of the pool.
            task = self._spawn(self._job(one, key, step, payload))
            done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - self._monotonic()))
            if not done:
                raise problem.too_late("The items were not processed within the request's time.")
            try:
                return worker.unpack_reply(task.result())
            except ProcessEnded:
                logger.warning("A process for processors had ended; another one takes the job.")

    async def stop(self) -> None:
        """End the processes, whatever they do."""
        self._stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(one.stop() for one in self._workers))

    async def _next_idle(self, deadline: float) -> WorkerProcess:
        self._waiting += 1
        try:
            return await asyncio.wait_for(self._idle.get(), max(0.0, deadline - self._monotonic()))
        except asyncio.TimeoutError:
            raise problem.too_late("The items waited for their turn until the request's time was over.") from None
        finally:
            self._waiting -= 1

    async def _job(self, one: WorkerProcess, key: str, step: worker.Step, payload: Any) -> tuple[Any, ...]:
        try:
            reply: tuple[Any, ...] = await one.run(self._timeout, worker.run, key, step, payload)
            if step == "preprocess" and reply[0] == "done":
                reply = ("done", {name: await self._read_large(one, name, array) for name, array in reply[1].items()})
        except BaseException:
            if not self._stopping:
                self._spawn(self._replace(one))
            raise
        self._idle.put_nowait(one)
        return reply

    async def _read_large(self, one: WorkerProcess, name: str, given: Any) -> Any:
        """Return the array `name` that a job gave, its bytes asked for in pieces if it is a large one."""
        if not isinstance(given, tuple):
            return given
        shape, kind = given
        array = np.empty(shape, kind.dtype)
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, worker.PIECE_BYTES):
            read_piece = await one.run(self._timeout, worker.read_piece, name, start)
            flat[start : start + len(read_piece)] = np.frombuffer(read_piece, np.uint8)
        return array

    async def _replace(self, one: WorkerProcess) -> None:
        while True:
            await one.stop()
            try:
                await one.start(START_SECONDS)
            except Exception as error:  # such as no descriptors now: a place that is given up never comes back
                logger.warning("A process for processors could not be started: %s", error)
                await asyncio.sleep(_RESTART_SECONDS)
            else:
                self._idle.put_nowait(one)
                return

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Looked at here as well, so that a job whose client went away does not complain in the logger.
            task.exception()


def _cpus() -> int:
    # Not everywhere (macOS): which CPUs a container may use is known on Linux only.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
