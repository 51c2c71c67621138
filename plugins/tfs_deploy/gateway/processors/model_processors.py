"""The processor and the postprocessor of one model: items to batches for Predict, and its answers to JSON."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway import problem
from tfs_deploy.gateway.config import ModelConfig, Pool, ProcessorConfig
from tfs_deploy.gateway.processors import worker
from tfs_deploy.gateway.processors.pool import ProcessorPool
from tfs_deploy.gateway.processors.protocol import Array, Arrays, BadAnswer, BadItem, Blob, split_aux
from tfs_deploy.gateway.processors.registry import make_postprocessor, make_processor
from tfs_deploy.serving.signature import Signature

# A job above this size has one item only, because sending it holds the interpreter lock.
_JOB_BYTES = 1 << 20
# Bytes, characters or elements that take some milliseconds.
_LARGE = 10_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The inputs of one Predict for `rows` items; `aux` are the auxiliary arrays for the postprocessor."""

    inputs: dict[str, Array]
    aux: dict[str, Array]
    rows: int


class ModelProcessors:
    """The processors of the model `name`; `pooled` are the steps that run in the pool."""

    def __init__(self, name: str, model: ModelConfig) -> None:
        after = model.postprocessor or model.processor
        self._processor = make_processor(model.processor)
        self._postprocessor = make_postprocessor(after) if model.postprocessor else self._processor
        self._keys: dict[worker.Step, str] = {"preprocess": f"{name} preprocess", "postprocess": f"{name} postprocess"}
        self.pooled: dict[str, ProcessorConfig] = {}
        if _in_pool(model.processor, self._processor, "preprocess"):
            self.pooled[self._keys["preprocess"]] = model.processor
        if _in_pool(after, self._postprocessor, "postprocess"):
            self.pooled[self._keys["postprocess"]] = after
        if self._keys["preprocess"] in self.pooled and getattr(self._processor, "requires_signature", False):
            raise InvalidInput(
                f"The processor {model.processor.name!r} of model {name!r} needs the model's signature, "
                "which a process of the pool does not have.",
                "Set its option inputs, or in_pool: false.",
            )
        self.takes_blobs = bool(getattr(self._processor, "takes_blobs", False))
        self.batches = bool(getattr(self._processor, "batches", True))
        self._pool: ProcessorPool | None = None
        self._bound: tuple[Signature, Any] | None = None

    def attach_pool(self, pool: ProcessorPool) -> None:
        """Run the steps in `pooled` in the processes of `pool` from now on."""
        self._pool = pool

    async def preprocess(
        self, items: Sequence[Any], *, deadline: float, signature: Signature | None = None
    ) -> list[Batch]:
        """Return the batches for `items`, in their order: one, or one per item; raise Problem.

        `signature` is that of the live version, for processors that depend on it.
        """
        if not items:
            raise problem.unusable("The request has no items; send at least one.")
        parts = self._parts(items)
        tasks = [asyncio.ensure_future(self._part(first, part, deadline, signature)) for first, part in parts]
        try:
            made = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        if not self.batches:
            return [_batch(arrays, len(part)) for arrays, (_, part) in zip(made, parts, strict=True)]
        # In a thread: numpy copies large arrays without the interpreter lock.
        whole = made[0] if len(made) == 1 else await asyncio.to_thread(_joined, made)
        return [_batch(whole, len(items))]

    async def postprocess(self, batch: Batch, outputs: Arrays, *, deadline: float) -> list[Any]:
        """Return one JSON-able value per item of `batch`; raise Problem."""
        values = await self._step("postprocess", self._postprocessor, {**outputs, **batch.aux}, deadline)
        if not isinstance(values, list) or len(values) != batch.rows:
            count = f"{len(values)} values" if isinstance(values, list) else f"a {type(values).__name__}"
            raise problem.bad_upstream(f"The postprocessor returned {count} for {batch.rows} items.")
        return values

    def _parts(self, items: Sequence[Any]) -> list[tuple[int, Sequence[Any]]]:
        """Return the items of each job with the index of the first: one job, or jobs for all processes."""
        if not self.batches:
            return [(index, items[index : index + 1]) for index in range(len(items))]
        if not (self._pool and self._keys["preprocess"] in self.pooled and getattr(self._processor, "splits", False)):
            return [(0, items)]
        most = -(-len(items) // self._pool.size)
        starts, size = [0], 0
        for index, item in enumerate(items):
            weight = len(item.data) if isinstance(item, Blob) else 0
            size += weight
            if index > starts[-1] and (index - starts[-1] >= most or size > _JOB_BYTES):
                starts.append(index)
                size = weight
        return [(start, items[start:end]) for start, end in zip(starts, [*starts[1:], len(items)], strict=True)]

    async def _part(self, first: int, items: Sequence[Any], deadline: float, signature: Signature | None) -> Arrays:
        try:
            arrays = await self._step("preprocess", self._processor_for(signature), items, deadline)
        except BadItem as error:
            moved = BadItem(first + error.index, error.reason, error.remedy)
            raise problem.unusable(str(moved), item=moved.index) from error
        if not isinstance(arrays, Mapping) or not all(isinstance(array, np.ndarray) for array in arrays.values()):
            logger.error("The processor %s does not return a dict of arrays.", type(self._processor).__name__)
            raise problem.internal()
        return arrays

    async def _step(self, step: worker.Step, processor: Any, payload: Any, deadline: float) -> Any:
        key = self._keys[step]
        try:
            if self._pool is None or key not in self.pooled:
                return await self._run_locally(step, processor, payload)
            sent = worker.pack(payload) if step == "preprocess" else dict(payload)
            return await self._pool.run(key, step, sent, deadline=deadline)
        except BadItem:
            raise
        except InvalidInput as error:
            raise problem.unusable(str(error)) from error
        except BadAnswer as error:
            logger.warning("An answer cannot be read: %s", error)
            raise problem.bad_upstream(error.cause) from error
        except worker.ProcessorError as error:
            logger.error("A processor failed: %s", error)
            raise problem.internal() from error

    async def _run_locally(self, step: worker.Step, processor: Any, payload: Any) -> Any:
        """Run one step in this process: directly, or in a thread where the payload is large."""
        if getattr(processor, "reentrant", False) and _size_of(payload) > _LARGE:
            return await asyncio.to_thread(worker.run_locally, processor, step, payload)
        return worker.run_locally(processor, step, payload)

    def _processor_for(self, signature: Signature | None) -> Any:
        """Return the processor for `signature`, cached until the signature changes."""
        bind = getattr(self._processor, "with_signature", None)
        if bind is None or signature is None:
            return self._processor
        if self._bound is None or self._bound[0] != signature:
            self._bound = signature, bind(signature)
        return self._bound[1]


def make_model_processors(
    models: Mapping[str, ModelConfig], pool: Pool
) -> tuple[dict[str, ModelProcessors], ProcessorPool | None]:
    """Return the processors of all models, and the pool they use (to be started) if any of them is heavy.

    Raise InvalidInput for the first processor that cannot be made.
    """
    made = {name: ModelProcessors(name, model) for name, model in models.items()}
    specs = {key: spec for each in made.values() for key, spec in each.pooled.items()}
    if not specs:
        return made, None
    processes = ProcessorPool(specs, workers=pool.workers, queue=pool.queue, timeout_seconds=pool.timeout_seconds)
    for each in made.values():
        each.attach_pool(processes)
    return made, processes


def _in_pool(spec: ProcessorConfig, made: Any, step: worker.Step) -> bool:
    return step in getattr(made, "heavy", ()) if spec.in_pool is None else spec.in_pool


def _size_of(payload: Any) -> int:
    """Return an estimate of the bytes, characters or elements in `payload` (items, or arrays by name)."""
    parts = payload.values() if isinstance(payload, Mapping) else payload
    return sum(map(_size_of_one, parts))


def _size_of_one(value: Any) -> int:
    size = 1
    # Assumes one regular shape, because other lists are refused later. Not recursive, because the nesting may be deep.
    while type(value) is list and value:
        size *= len(value)
        value = value[0]
    if type(value) is dict:
        return size * sum(_size_of_one(part) if type(part) is list else 1 for part in value.values())
    if isinstance(value, np.ndarray):
        return value.size
    return size * (len(value.data) if isinstance(value, Blob) else len(value) if isinstance(value, str) else 1)


def _batch(arrays: Arrays, rows: int) -> Batch:
    inputs, aux = split_aux(arrays)
    return Batch(inputs, aux, rows)


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
