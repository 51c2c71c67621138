"""A session that merges concurrent runs: `--enable_batching` (contract 10).

One `BatchScheduler` with its threads serves all versions; each version has a `BatchingSession` with a queue per set of
inputs and outputs. All requests of a batch have the same outcome: the error of one is the error of all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tfs_deploy.clock import Clock
from tfs_deploy.modelserver.batching import tensors
from tfs_deploy.modelserver.batching.parameters import BatchingParameters, read_file, read_version_parameters
from tfs_deploy.modelserver.batching.queue import Batch, BatchQueue, Outputs, Task
from tfs_deploy.modelserver.flags import Flags
from tfs_deploy.modelserver.graph.servable import Array, Session
from tfs_deploy.modelserver.loading.loader import SessionWrapper
from tfs_deploy.modelserver.status import Code, StatusError, of_exception

logger = logging.getLogger(__name__)

Monotonic = Callable[[], float]


class BatchScheduler:
    """Threads that run the batches of all queues, one queue after the other; they start with the first queue."""

    def __init__(self, threads: int, monotonic: Monotonic = time.monotonic) -> None:
        self._threads = threads
        self.monotonic = monotonic
        self._changed = threading.Condition()
        self._queues: dict[BatchQueue, Callable[[Batch], None]] = {}
        self._running: dict[BatchQueue, int] = {}
        self._started = False

    def attach(self, queue: BatchQueue, process: Callable[[Batch], None]) -> None:
        """Run the batches of `queue` with `process`, which must not raise an error."""
        with self._changed:
            self._queues[queue] = process
            self._running[queue] = 0
            if not self._started:
                self._started = True
                for number in range(self._threads):
                    threading.Thread(target=self._work, name=f"batch-{number}", daemon=True).start()

    def schedule(self, queue: BatchQueue, task: Task) -> None:
        """Put `task` into `queue`; raise StatusError where it does not fit."""
        with self._changed:
            if queue not in self._queues:
                raise _version_unloading()
            queue.add(task, self.monotonic(), tensors.split)
            self._changed.notify()

    def detach(self, queue: BatchQueue) -> None:
        """Run the batches in `queue` without delay, and return when the last one has ended."""
        with self._changed:
            queue.closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: queue.due(self.monotonic()) is None and not self._running[queue])
            del self._queues[queue], self._running[queue]

    def _work(self) -> None:
        while True:
            queue, process, batch = self._next()
            try:
                process(batch)
            except Exception:  # without the thread, its share of all batches would not run
                logger.exception("A batch failed")
            with self._changed:
                self._running[queue] -= 1
                self._changed.notify_all()

    def _next(self) -> tuple[BatchQueue, Callable[[Batch], None], Batch]:
        """Wait for the next batch that is due."""
        with self._changed:
            while True:
                now = self.monotonic()
                soonest: float | None = None
                for queue, process in self._queues.items():
                    due = queue.due(now)
                    if due is None:
                        continue
                    if due <= 0:
                        # Round robin: the other queues come first the next time.
                        del self._queues[queue]
                        self._queues[queue] = process
                        self._running[queue] += 1
                        return queue, process, queue.take()
                    soonest = due if soonest is None else min(soonest, due)
                self._changed.wait(soonest)


class BatchingSession:
    """Merges the runs of the `Session` that it wraps."""

    def __init__(self, wrapped: Session, parameters: BatchingParameters, scheduler: BatchScheduler) -> None:
        """Raise INVALID_ARGUMENT for parameters that TF Serving refuses; nothing is attached yet."""
        parameters.check()
        self._wrapped = wrapped
        self._parameters = parameters
        self._scheduler = scheduler
        self._lock = threading.Lock()
        self._closed = False
        self._queues: dict[tuple[frozenset[str], frozenset[str]], BatchQueue] = {}

    def run(
        self,
        feeds: Mapping[str, Array],
        fetches: Sequence[str],
        targets: Sequence[str] = (),
        *,
        timeout_ms: int | None = None,
    ) -> list[Array]:
        """Return this run's rows of a batch's outputs; `timeout_ms` includes the wait in the queue."""
        if targets:
            raise StatusError(Code.PERMISSION_DENIED, "BatchingSession does not support target nodes")
        rows = tensors.common_batch_size(feeds)
        seconds = None if timeout_ms is None else max(timeout_ms, 1) / 1000
        deadline = None if seconds is None else self._scheduler.monotonic() + seconds
        finished = threading.Event()
        outcome: list[Outputs | StatusError] = []

        def done(result: Outputs | StatusError) -> None:
            outcome.append(result)
            finished.set()

        task = Task(feeds, rows, deadline, done)
        self._scheduler.schedule(self._queue(feeds, fetches), task)
        if not finished.wait(seconds):
            if not task.running.is_set():
                raise _queue_timeout()
            finished.wait()  # the run ends with an error at the latest deadline of its batch
        if isinstance(outcome[0], StatusError):
            # Each caller gets its own exception, because raising one adds a traceback to it.
            raise StatusError(outcome[0].code, outcome[0].message)
        return [outcome[0][name] for name in fetches]

    def close(self) -> None:
        """Run the batches in the queues, then close the wrapped session."""
        with self._lock:
            self._closed = True
            queues = list(self._queues.values())
        for queue in queues:
            self._scheduler.detach(queue)
        self._wrapped.close()

    def _queue(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> BatchQueue:
        key = frozenset(feeds), frozenset(fetches)
        with self._lock:
            queue = self._queues.get(key)
            if queue is None and self._closed:
                raise _version_unloading()
            if queue is None:
                queue = self._queues[key] = BatchQueue(self._parameters)
                names = sorted(key[1])
                self._scheduler.attach(queue, lambda batch: self._process(names, batch))
            return queue

    def _process(self, names: Sequence[str], batch: Batch) -> None:
        outcomes: Sequence[Outputs | StatusError]
        try:
            outcomes = self._run(names, batch)
        except Exception as error:  # each caller gets it
            outcomes = [of_exception(error)] * len(batch.tasks)
        for task, outcome in zip(batch.tasks, outcomes, strict=True):
            task.done(outcome)

    def _run(self, names: Sequence[str], batch: Batch) -> list[Outputs]:
        now = self._scheduler.monotonic()
        deadlines = [task.deadline for task in batch.tasks]
        latest = None if None in deadlines else max(at for at in deadlines if at is not None)
        if latest is not None and latest <= now:
            raise _queue_timeout()
        for task in batch.tasks:
            task.running.set()
        padding = self._parameters.rounded(batch.rows) - batch.rows
        feeds = tensors.merge_inputs(
            batch.tasks, padding, pad_variable_length=self._parameters.pad_variable_length_inputs
        )
        timeout_ms = None if latest is None else max(int((latest - now) * 1000), 1)
        arrays = self._wrapped.run(feeds, names, timeout_ms=timeout_ms)
        return tensors.outputs_by_task(batch.tasks, names, arrays, padding)


def _version_unloading() -> StatusError:
    return StatusError(Code.UNAVAILABLE, "This version is being unloaded.")


def _queue_timeout() -> StatusError:
    return StatusError(Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue")


def session_wrapper(flags: Flags, clock: Clock) -> SessionWrapper:
    """Return the wrapper of each session for --enable_batching; raise StatusError for an unreadable parameters file.

    With --enable_per_model_batching_parameters a version's own parameters replace the common ones, except the number of
    threads, which all versions share; a version without its own is not batched.
    """
    if not flags.switch("enable_batching"):
        return lambda session, directory: session
    path = flags.text("batching_parameters_file")
    common = read_file(path) if path else BatchingParameters()
    scheduler = BatchScheduler(common.threads, clock.monotonic)
    per_model = flags.switch("enable_per_model_batching_parameters")

    def wrap(session: Session, directory: Path) -> Session:
        parameters = read_version_parameters(directory) if per_model else common
        return session if parameters is None else BatchingSession(session, parameters, scheduler)

    return wrap
