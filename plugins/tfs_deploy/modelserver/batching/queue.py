"""The queue of one set of inputs and outputs: tasks become batches, as in TensorFlow's SharedBatchScheduler."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tfs_deploy.modelserver.batching.parameters import BatchingParameters
from tfs_deploy.modelserver.graph.servable import Array
from tfs_deploy.modelserver.status import Code, StatusError, invalid_argument

Outputs = Mapping[str, Array]


@dataclass(slots=True, eq=False)
class Task:
    """One request, or a part of one; `done` is called once, with its rows of the outputs or the error.

    `deadline` is in seconds on the monotonic clock, None without a limit; `running` is set when the batch runs.
    """

    feeds: Mapping[str, Array]
    rows: int
    deadline: float | None
    done: Callable[[Outputs | StatusError], None]
    running: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True, eq=False)
class Batch:
    """Tasks that run together; `opened` is the time of the first one."""

    opened: float = 0.0
    rows: int = 0
    tasks: list[Task] = field(default_factory=list)


class BatchQueue:
    """Waiting batches, of which the last one is open. Not thread-safe: the scheduler's lock guards it."""

    def __init__(self, parameters: BatchingParameters) -> None:
        self._parameters = parameters
        # Without splitting TensorFlow takes a limit of 0 for 1.
        self._limit = max(parameters.max_enqueued_batches, 1)
        self._batches: deque[Batch] = deque([Batch()])
        self.closed = False

    def add(self, task: Task, now: float, split: Callable[[Task, list[int]], list[Task]]) -> None:
        """Add `task`; raise INVALID_ARGUMENT if it is too large, UNAVAILABLE if the queue is full."""
        self._check(task)
        rows_per_run = self._parameters.rows_per_run
        free = rows_per_run - self._batches[-1].rows
        parts = [task]
        if task.rows > free and self._parameters.enable_large_batch_splitting:
            parts = split(task, _sizes(task.rows, free, rows_per_run))
        for part in parts:
            if self._batches[-1].rows + part.rows > rows_per_run:
                self._batches.append(Batch())
            batch = self._batches[-1]
            if not batch.tasks:
                batch.opened = now
            batch.tasks.append(part)
            batch.rows += part.rows

    def due(self, now: float) -> float | None:
        """Return the seconds until the next batch runs, 0 for now; None without one."""
        if len(self._batches) > 1:
            return 0.0
        batch = self._batches[0]
        if self.closed and batch.tasks:
            return 0.0
        if batch.rows == 0:
            return None  # a request without rows waits for others forever, as in TensorFlow
        if batch.rows >= self._parameters.rows_per_run:
            return 0.0
        return max(batch.opened + self._parameters.batch_timeout - now, 0.0)

    def take(self) -> Batch:
        """Remove and return the oldest batch."""
        batch = self._batches.popleft()
        if not self._batches:
            self._batches.append(Batch())
        return batch

    def _check(self, task: Task) -> None:
        parameters, waiting, open_ = self._parameters, len(self._batches), self._batches[-1]
        if task.rows > parameters.max_batch_size:
            raise invalid_argument(
                f"Task size {task.rows} is larger than maximum input batch size {parameters.max_batch_size}"
            )
        full = "The batch scheduling queue to which this task was submitted is full; "
        if parameters.enable_large_batch_splitting:
            capacity = (self._limit - waiting) * parameters.rows_per_run + parameters.rows_per_run - open_.rows
            if task.rows > capacity:
                raise StatusError(
                    Code.UNAVAILABLE,
                    f"{full}task size is {task.rows} but scheduling capacity is only {capacity} "
                    f"(num_enqueued_batches={waiting}, max_enqueued_batches={self._limit}, "
                    f"open_batch_size={open_.rows}, max_execution_batch_size={parameters.rows_per_run})",
                )
        elif open_.rows + task.rows > parameters.max_batch_size and waiting >= self._limit:
            raise StatusError(
                Code.UNAVAILABLE,
                f"{full}currently {waiting} batches enqueued and max_enqueued_batches is {self._limit}",
            )


def _sizes(rows: int, free: int, rows_per_run: int) -> list[int]:
    """Return the sizes of a split task: the open batch's free rows, whole batches, and the remainder."""
    sizes = [free] if free else []
    left = rows - free
    while left > 0:
        sizes.append(min(left, rows_per_run))
        left -= sizes[-1]
    return sizes
