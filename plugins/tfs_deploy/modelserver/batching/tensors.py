"""Merges the inputs of several tasks into those of one run, and splits its outputs (contract 10)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from tfs_deploy.modelserver.batching.queue import Outputs, Task
from tfs_deploy.modelserver.graph.servable import Array
from tfs_deploy.modelserver.status import Code, StatusError, failed_precondition, invalid_argument
from tfs_deploy.serving.codec import tensors

# `BAT/batching_util.cc` pads as many dimensions as TensorFlow's Pad operation does.
_PADDED_RANKS = range(1, 7)


def common_batch_size(feeds: Mapping[str, Array]) -> int:
    """Return the size of dimension 0, which must be the same for all inputs."""
    if not feeds:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    rows: int | None = None
    for array in feeds.values():
        if np.ndim(array) == 0:
            raise invalid_argument("Batching Run() input tensors must have at least one dimension")
        if rows is not None and len(array) != rows:
            raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
        rows = len(array)
    assert rows is not None
    return rows


def merge_inputs(tasks: Sequence[Task], padding: int, *, pad_variable_length: bool) -> dict[str, Array]:
    """Return the inputs of one run: the rows of all tasks, and `padding` copies of the last task's first row."""
    return {
        name: _concatenate(name, [task.feeds[name] for task in tasks], padding, pad_variable_length)
        for name in sorted(tasks[0].feeds)
    }


def outputs_by_task(tasks: Sequence[Task], names: Sequence[str], arrays: Sequence[Any], padding: int) -> list[Outputs]:
    """Return each task's rows of the outputs; raise FAILED_PRECONDITION if their number differs from the inputs'."""
    rows = sum(task.rows for task in tasks) + padding
    for array in arrays:
        if np.ndim(array) == 0:
            raise failed_precondition("Batched output tensor has 0 dimensions")
        if len(array) != rows:
            raise failed_precondition(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
                "tensors"
            )
    shares: list[Outputs] = []
    begin = 0
    for task in tasks:
        end = begin + task.rows
        shares.append({name: array[begin:end] for name, array in zip(names, arrays, strict=True)})
        begin = end
    return shares


def split(task: Task, sizes: Sequence[int]) -> list[Task]:
    """Return tasks of `sizes` rows; when all are done, `task` gets their joined outputs or the first error."""
    lock = threading.Lock()
    parts: list[Outputs | StatusError | None] = [None] * len(sizes)

    def finish(index: int, outcome: Outputs | StatusError) -> None:
        with lock:
            parts[index] = outcome
            complete = all(part is not None for part in parts)
        if complete:
            task.done(_join_outputs(parts))

    tasks: list[Task] = []
    begin = 0
    for index, size in enumerate(sizes):
        feeds = {name: array[begin : begin + size] for name, array in task.feeds.items()}
        tasks.append(Task(feeds, size, task.deadline, partial(finish, index), task.running))
        begin += size
    return tasks


def _join_outputs(parts: Sequence[Outputs | StatusError | None]) -> Outputs | StatusError:
    outputs: list[Outputs] = []
    for part in parts:
        if isinstance(part, StatusError):
            return part
        if part is not None:
            outputs.append(part)
    try:
        return {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}
    except ValueError as error:
        return StatusError(Code.INTERNAL, f"Tensor concat operation failed: {error}")


def _concatenate(name: str, arrays: list[Array], padding: int, pad_variable_length: bool) -> Array:
    if pad_variable_length:
        arrays = _pad_to_largest(arrays)
    elif any(array.shape[1:] != arrays[0].shape[1:] for array in arrays):
        # TF Serving lacks the two spaces too: its issue 1934 quotes the text.
        raise failed_precondition(
            f"Tensors with name '{name}' from different tasks have different shapes and padding is turned off."
            "Set pad_variable_length_inputs to true, or ensure that all tensors with the same namehave equal "
            "dimensions starting with the first dim."
        )
    first = arrays[0].dtype
    for array in arrays:
        if array.dtype != first:  # NumPy would cast
            raise StatusError(
                Code.INTERNAL,
                "Tensor concat operation failed: INVALID_ARGUMENT: Cannot concatenate tensors that have different "
                f"data types. Got {_type_name(arrays[0])} and {_type_name(array)}.",
            )
    # Most batches hold a single request, which is not copied.
    if len(arrays) == 1 and padding == 0:
        return arrays[0]
    return np.concatenate([*arrays, *[arrays[-1][:1]] * padding])


def _pad_to_largest(arrays: list[Array]) -> list[Array]:
    """Return the arrays padded to the largest size of each dimension but 0, with each array's first value."""
    if any(array.ndim != arrays[0].ndim for array in arrays):
        raise invalid_argument("Tensors of different ranks cannot be padded to one shape.")
    if arrays[0].ndim not in _PADDED_RANKS:
        raise invalid_argument("Only tensors with rank from 1 to 6 can be padded.")
    shape = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))
    return [_pad(array, shape) for array in arrays]


def _pad(array: Array, shape: tuple[int, ...]) -> Array:
    if array.shape[1:] == shape or (array.size == 0 and len(array) == 0):
        return array.reshape((len(array), *shape))
    if array.size == 0:
        raise invalid_argument("Got empty tensor in batch of non-empty tensors.")
    filled = np.full((len(array), *shape), array.flat[0], array.dtype)
    filled[tuple(slice(size) for size in array.shape)] = array
    return filled


def _type_name(array: Array) -> str:
    return tensors.dtype_name(array).removeprefix("DT_").lower()
