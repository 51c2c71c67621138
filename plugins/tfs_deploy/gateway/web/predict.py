"""Answer one predict request: read items, fetch blobs, preprocess, predict, postprocess, write JSON."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from http import HTTPStatus
from typing import Any

from tfs_deploy.gateway.capture.files import CapturedRequest
from tfs_deploy.gateway.config import GatewayConfig
from tfs_deploy.gateway.fetching.fetch import Fetcher
from tfs_deploy.gateway.problem import Problem, bad_upstream, unavailable
from tfs_deploy.gateway.processors.model_processors import Batch
from tfs_deploy.gateway.upstream.answer import Answer
from tfs_deploy.gateway.web import chunked_json
from tfs_deploy.gateway.web.body import Items, read_items, read_timeout, resolve_blobs
from tfs_deploy.gateway.web.endpoint import Endpoint
from tfs_deploy.gateway.web.message import Reply, Request, json_reply
from tfs_deploy.serving.signature import Signature

# Between two checks whether the model is ready.
_PAUSE_SECONDS = 0.05
# How often a request is preprocessed again because the signature changed.
_ROUNDS = 3
# While a label moves from replica to replica, each round completes about half of the missing batches of one version.
_ROUNDS_OF_BATCHES = 16


class PredictHandler:
    """Answers predict requests of all models; `wall` is seconds since 1970, deadlines are on the clock `monotonic`."""

    def __init__(
        self,
        config: GatewayConfig,
        fetcher: Fetcher,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._fetcher = fetcher
        self._monotonic = monotonic
        self._wall = wall

    async def answer(self, endpoint: Endpoint, request: Request, label: str | None) -> Reply:
        """Return the reply to `request`; raise Problem."""
        most = endpoint.config.timeout_seconds or self._config.limits.timeout_seconds
        deadline = self._monotonic() + read_timeout(request.headers, most=most)
        return await self._answer(endpoint, request, label, deadline)

    async def _answer(self, endpoint: Endpoint, request: Request, label: str | None, deadline: float) -> Reply:
        with request.time_stage("read"):
            items = await _read(request, self._config.limits.items)
        request.body = b""
        values = items.values
        if endpoint.processors.takes_blobs:
            with request.time_stage("fetch"):
                values = await resolve_blobs(
                    values,
                    self._fetcher,
                    parallel=self._config.fetch.parallel,
                    deadline=deadline,
                    reserve=request.reserve,
                )
        batches, answers = await self._preprocess_and_predict(endpoint, request, values, label, deadline)
        _add_log_fields(request, answers[0])
        with request.time_stage("postprocess"):
            results: list[Any] = []
            for batch, answer in zip(batches, answers, strict=True):
                results += await endpoint.processors.postprocess(batch, answer.outputs, deadline=deadline)
        with request.time_stage("write"):
            reply = await _reply(request, answers, results, single=items.single)
        self._capture(endpoint, batches, answers)
        return reply

    async def _preprocess_and_predict(
        self, endpoint: Endpoint, request: Request, values: list[Any], label: str | None, deadline: float
    ) -> tuple[list[Batch], list[Answer]]:
        """Return the batches and their answers; preprocess again where the signature changes meanwhile."""
        for rounds_left in reversed(range(_ROUNDS)):
            with request.time_stage("preprocess"):
                signature = await self._signature(endpoint, label, deadline)
            try:
                with request.time_stage("preprocess"):
                    batches = await endpoint.processors.preprocess(values, deadline=deadline, signature=signature)
                with request.time_stage("predict"):
                    return batches, await self._predict(endpoint, request, batches, label, deadline)
            except Problem as problem:
                if problem.status != HTTPStatus.UNPROCESSABLE_ENTITY or not rounds_left:
                    raise
                await endpoint.upstream.refresh_label(label or "", deadline)
                if _known_signature(endpoint, label) in (None, signature):
                    raise
        raise AssertionError("the last round returns or raises")

    async def _signature(self, endpoint: Endpoint, label: str | None, deadline: float) -> Signature:
        """Return the live signature; raise Problem (503) where no replica reports it within `retries.seconds`."""
        upstream = endpoint.upstream
        until = min(deadline, self._monotonic() + self._config.retries.seconds)
        while True:
            signature = _known_signature(endpoint, label)
            if signature:
                return signature
            ready = await upstream.ready()
            if not ready and self._monotonic() >= until:
                raise unavailable(f"No model server answers for model {endpoint.name!r} at the moment; try again.")
            if ready and upstream.signature() is None:
                raise bad_upstream(f"Model {endpoint.name!r} has no signature {endpoint.config.signature!r}.")
            if not ready:
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _predict(
        self, endpoint: Endpoint, request: Request, batches: list[Batch], label: str | None, deadline: float
    ) -> list[Answer]:
        """Return one answer per batch, all of one version."""
        first = await endpoint.traffic.predict(
            batches[0].inputs,
            label=label,
            headers=request.headers,
            deadline=deadline,
            request_id=request.id,
        )
        if len(batches) == 1:
            return [first]
        try:
            return await self._complete_batches(endpoint, request, batches, first, deadline)
        except Problem:
            if label is not None or first.label == endpoint.config.label:
                raise
            # A canary that fails must not fail the request: the model's own label answers.
            own = await self._predict_batch(endpoint, request, batches[0], endpoint.config.label, deadline)
            return await self._complete_batches(endpoint, request, batches, own, deadline)

    async def _complete_batches(
        self, endpoint: Endpoint, request: Request, batches: list[Batch], first: Answer, deadline: float
    ) -> list[Answer]:
        """Return the answers to all batches by one version; `first` answers the first batch; raise Problem (503)."""
        # Answers of other versions are kept: one of those may complete the request in the end.
        answers: dict[int, dict[int, Answer]] = {first.version: {0: first}}
        version = first.version
        for _ in range(_ROUNDS_OF_BATCHES):
            missing = [index for index in range(len(batches)) if index not in answers[version]]
            if not missing:
                return [answers[version][index] for index in range(len(batches))]
            new_answers = await _gather_or_cancel(
                self._predict_batch(endpoint, request, batches[index], first.label, deadline) for index in missing
            )
            for index, answer in zip(missing, new_answers, strict=True):
                answers.setdefault(answer.version, {})[index] = answer
            if all(answer.version != version for answer in new_answers):  # the label has moved
                version = new_answers[-1].version
        raise unavailable(f"The version of model {endpoint.name!r} changes at the moment; try again.")

    async def _predict_batch(
        self, endpoint: Endpoint, request: Request, batch: Batch, label: str, deadline: float
    ) -> Answer:
        return await endpoint.upstream.predict(batch.inputs, label=label, deadline=deadline, request_id=request.id)

    def _capture(self, endpoint: Endpoint, batches: list[Batch], answers: list[Answer]) -> None:
        capture = endpoint.capture
        if capture is None or not capture.sampled():
            return
        for batch, answer in zip(batches, answers, strict=True):
            capture.offer(
                CapturedRequest(
                    answer.model,
                    endpoint.config.signature,
                    answer.version,
                    answer.label,
                    batch.inputs,
                    answer.outputs,
                    self._wall(),
                )
            )


def _known_signature(endpoint: Endpoint, label: str | None) -> Signature | None:
    """Return the signature of the version under `label`, or under the model's own label where that is unknown."""
    upstream = endpoint.upstream
    live = (label and upstream.signature(label)) or upstream.signature()
    return live[1] if live else None


async def _gather_or_cancel(coroutines: Iterable[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _add_log_fields(request: Request, answer: Answer) -> None:
    request.log_fields.update(
        version=answer.version, label=answer.label, replica=answer.replica, attempts=answer.attempts
    )


async def _read(request: Request, most: int) -> Items:
    if len(request.body) <= chunked_json.LARGE_BYTES:
        return read_items(request, most=most)
    return await asyncio.to_thread(read_items, request, most=most)


async def _reply(request: Request, answers: list[Answer], results: list[Any], *, single: bool) -> Reply:
    answer = answers[0]
    body: dict[str, Any] = {"model": answer.model, "version": answer.version}
    body |= {"label": answer.label} if answer.label else {}
    body |= {"result": results[0]} if single else {"results": results}
    headers = {
        "X-Model-Name": answer.model,
        "X-Model-Version": str(answer.version),
        **({"X-Model-Label": answer.label} if answer.label else {}),
        "Server-Timing": ", ".join(f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in request.stages.items()),
    }
    elements = sum(array.size for each in answers for array in each.outputs.values())
    if elements <= chunked_json.LARGE_ELEMENTS:
        return json_reply(body, headers=headers)
    return await asyncio.to_thread(json_reply, body, headers=headers, large=True)
