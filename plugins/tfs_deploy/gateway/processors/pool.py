"""A pool of processes for CPU-heavy processors, so that decoding a picture does not delay other requests.

Each process is an executor of its own with one job at a time. A job that hangs or crashes its process affects no other
job, and the process is replaced.
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

# A new process imports numpy and Pillow (about a second, more under load) and reads vocabularies.
START_SECONDS = 60.0
_RESTART_SECONDS = 1.0


class ProcessEnded(Exception):
    """The process had ended before it started the job."""


class WorkerProcess:
    """A process with the processors in `configured` (see `worker.make_processors`)."""

    def __init__(self, configured: bytes) -> None:
        self._configured = configured
        self._executor: ProcessPoolExecutor | None = None
        self._context = _TrackingContext()
        self._jobs = 0
        # The number of the last job that the process started, in shared memory. It distinguishes a job that ended the
        # process from one that came after its end; the executor reports both alike.
        self._started_job = self._context.RawValue("Q", 0)

    async def start(self, seconds: float) -> None:
        """Start the process and make its processors; raise InvalidInput or Unreachable."""
        self._context = _TrackingContext()
        self._executor = ProcessPoolExecutor(
            1, mp_context=self._context, initializer=worker.init_process, initargs=(self._started_job,)
        )
        try:
            failure = await _result(self._executor.submit(worker.make_processors, self._configured), seconds)
        except BrokenProcessPool as error:
            raise Unreachable(
                "A process of the pool ended during its start.", "Check the log for the reason."
            ) from error
        except asyncio.TimeoutError as error:
            raise Unreachable(f"A process of the pool did not start within {seconds:g} s.", "Try again.") from error
        if failure:
            raise InvalidInput(failure, "Correct the gateway's configuration.")

    async def run(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of one job; raise ProcessEnded or a Problem, after which it must be replaced."""
        if self._executor is None:
            raise ProcessEnded
        self._jobs += 1
        try:
            return await _result(self._executor.submit(worker.run_job, self._jobs, function, *arguments), seconds)
        except BrokenProcessPool:
            if self._started_job.value != self._jobs:
                raise ProcessEnded from None
            logger.warning("A process of the pool ended during a job.")
            raise problem.internal() from None
        except asyncio.TimeoutError:
            logger.warning("A process of the pool is killed: its job took longer than %g s.", seconds)
            raise problem.too_late(
                f"The items took longer than {seconds:g} s to process; send fewer or smaller items."
            ) from None

    async def stop(self) -> None:
        """Kill the process; it may hang, so it is not asked to end."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        for process in self._context.started:
            process.kill()
        await asyncio.get_running_loop().run_in_executor(None, executor.shutdown)


class _TrackingContext(SpawnContext):
    """A spawn context that records its processes, because an executor cannot kill them before Python 3.14.

    Not a fork context: a fork would copy the locks of the gateway's threads, gRPC's among them.
    """

    def __init__(self) -> None:
        self.started: list[SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        process = SpawnProcess(*args, **kwargs)
        self.started.append(process)
        return process


async def _result(future: Future[Any], seconds: float) -> Any:
    return await asyncio.wait_for(asyncio.wrap_future(future), seconds)


class ProcessorPool:
    """`workers` processes (0: one per usable CPU), each with every processor of `specs` by its key.

    At most `queue` jobs wait; a job that takes longer than `timeout_seconds` is ended together with its process.
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
        """Return the number of processes."""
        return len(self._workers)

    @property
    def waiting(self) -> int:
        """Return the number of jobs that wait for a process."""
        return self._waiting

    async def start(self) -> None:
        """Start every process and make its processors; raise InvalidInput or Unreachable."""
        try:
            await asyncio.gather(*(process.start(START_SECONDS) for process in self._workers))
        except BaseException:
            await self.stop()
            raise
        for process in self._workers:
            self._idle.put_nowait(process)

    async def run(self, key: str, step: worker.Step, payload: Any, *, deadline: float) -> Any:
        """Return the result of `step` of the processor `key` for `payload`; `deadline` is on the monotonic clock.

        Raise BadItem, InvalidInput, BadAnswer or ProcessorError of the processor, or a Problem where too many jobs
        wait, the deadline passed, or the process ended.
        """
        if self._waiting >= self._queue and self._idle.empty():
            raise problem.too_busy("Too many items wait to be processed; try again later.")
        while True:
            process = await self._next_idle(deadline)
            # A task of its own, so that a client that disconnects does not take the process out of the pool.
            task = self._spawn(self._job(process, key, step, payload))
            done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - self._monotonic()))
            if not done:
                raise problem.too_late("The items were not processed before the request's deadline; try again.")
            try:
                return worker.unpack_reply(task.result())
            except ProcessEnded:
                logger.warning("A process of the pool had ended; another one gets the job.")

    async def stop(self) -> None:
        """Kill the processes, and cancel all jobs."""
        self._stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(process.stop() for process in self._workers))

    async def _next_idle(self, deadline: float) -> WorkerProcess:
        self._waiting += 1
        try:
            return await asyncio.wait_for(self._idle.get(), max(0.0, deadline - self._monotonic()))
        except asyncio.TimeoutError:
            raise problem.too_late("The items waited for a process until the request's deadline; try again.") from None
        finally:
            self._waiting -= 1

    async def _job(self, process: WorkerProcess, key: str, step: worker.Step, payload: Any) -> tuple[Any, ...]:
        try:
            reply: tuple[Any, ...] = await process.run(self._timeout, worker.run, key, step, payload)
            if step == "preprocess" and reply[0] == "done":
                reply = (
                    "done",
                    {name: await self._read_large(process, name, array) for name, array in reply[1].items()},
                )
        except BaseException:
            if not self._stopping:
                self._spawn(self._replace(process))
            raise
        self._idle.put_nowait(process)
        return reply

    async def _read_large(self, process: WorkerProcess, name: str, result: Any) -> Any:
        """Return the array `name` of a job's result; a large one is read in chunks."""
        if not isinstance(result, tuple):
            return result
        shape, kind = result
        array = np.empty(shape, kind.dtype)
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, worker.PIECE_BYTES):
            chunk = await process.run(self._timeout, worker.read_piece, name, start)
            flat[start : start + len(chunk)] = np.frombuffer(chunk, np.uint8)
        return array

    async def _replace(self, process: WorkerProcess) -> None:
        while True:
            await process.stop()
            try:
                await process.start(START_SECONDS)
            except Exception as error:  # such as no free descriptors; the pool must not shrink
                logger.warning("A process of the pool could not be started: %s", error)
                await asyncio.sleep(_RESTART_SECONDS)
            else:
                self._idle.put_nowait(process)
                return

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Retrieved, so that asyncio does not log the error of a job whose client disconnected.
            task.exception()


def _cpus() -> int:
    # Linux alone knows the CPUs of a container; macOS has no sched_getaffinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
