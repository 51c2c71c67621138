"""One process of the pool: started, given one job at a time, and killed where it does not end by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from tfs_deploy.errors import InvalidInput, Unreachable
from tfs_deploy.gateway import problem
from tfs_deploy.gateway.processors import worker

log = logging.getLogger(__name__)


class Gone(Exception):
    """The process ended while it had nothing to do; the job was not begun."""


class WorkerProcess:
    """A process with the processors in `configured` (as `worker.prepare` takes them)."""

    def __init__(self, configured: bytes) -> None:
        self._configured = configured
        self._executor: ProcessPoolExecutor | None = None
        self._context = _Recording()
        self._jobs = 0
        # The number of the job that the process began last. It tells a job that ended a process from one that came
        # just after its end, which an executor does not.
        self._begun = self._context.RawValue("Q", 0)

    async def start(self, seconds: float) -> None:
        """Start it and make its processors; raise InvalidInput or Unreachable."""
        self._context = _Recording()
        self._executor = ProcessPoolExecutor(
            1, mp_context=self._context, initializer=worker.settle, initargs=(self._begun,)
        )
        try:
            failure = await _result(self._executor.submit(worker.prepare, self._configured), seconds)
        except BrokenProcessPool as error:
            raise Unreachable("A process for processors ended while it started.", "Look at the log.") from error
        except asyncio.TimeoutError as error:
            raise Unreachable(f"A process for processors did not start in {seconds:g} s.", "Try again.") from error
        if failure:
            raise InvalidInput(failure, "Correct the gateway's configuration.")

    async def run(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of one job; raise Gone or a Problem, after which this process has to be replaced."""
        if self._executor is None:
            raise Gone
        self._jobs += 1
        try:
            return await _result(self._executor.submit(worker.begin, self._jobs, function, *arguments), seconds)
        except BrokenProcessPool:
            if self._begun.value != self._jobs:
                raise Gone from None
            log.warning("A process for processors ended in the middle of a job.")
            raise problem.internal() from None
        except asyncio.TimeoutError:
            log.warning("A process for processors is ended after %g s with one job.", seconds)
            raise problem.too_late(f"The items took longer than {seconds:g} s to process.") from None

    async def stop(self) -> None:
        """Kill it: what it does is not wanted any more, and it may not listen."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        for process in self._context.started:
            process.kill()
        await asyncio.get_running_loop().run_in_executor(None, executor.shutdown)


class _Recording(SpawnContext):
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
