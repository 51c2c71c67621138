"""The values of one HTTP exchange: request, reply, request id, and the budget of requests and bytes in memory."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
from tornado.httputil import HTTPHeaders

from tfs_deploy.gateway.config import Limits
from tfs_deploy.gateway.problem import Problem, too_busy
from tfs_deploy.gateway.web import chunked_json

REQUEST_ID_HEADER = "X-Request-Id"
_PLAIN = re.compile(r"[A-Za-z0-9._\-]{1,64}", re.ASCII)
JSON = "application/json"
# The byte budget in bodies of the largest size, for all models together; fetched bytes count as well.
_LARGEST_BODIES = 32


def request_id(given: str | None) -> str:
    """Return the client's id `given` if it is safe in logs and headers; a random id otherwise."""
    return given if given and _PLAIN.fullmatch(given) else f"{random.getrandbits(128):032x}"


def _reserve_nothing(size: int) -> None:
    """Reserve nothing: this request has no body."""


@dataclass(slots=True, eq=False)
class Request:
    """A request; `started` is monotonic seconds, `client` is the name of its API key.

    `reserve` adds that many bytes to the request's permit, and raises Problem where the budget is used up. `log_fields`
    are for the access log (model, version, label); `stages` are the seconds of each stage.
    """

    method: str
    path: str
    headers: HTTPHeaders
    id: str
    remote: str
    started: float
    client: str = ""
    body: bytes = b""
    log_fields: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    reserve: Callable[[int], None] = _reserve_nothing

    def time_stage(self, stage: str, clock: Callable[[], float] = time.monotonic) -> Stopwatch:
        """Return a context manager that measures one stage: ``with request.time_stage("predict"):``."""
        return Stopwatch(self.stages, stage, clock)


class Stopwatch:
    """Adds the seconds of its block to one stage."""

    __slots__ = ("_clock", "_stage", "_stages", "_started_at")

    def __init__(self, stages: dict[str, float], stage: str, clock: Callable[[], float]) -> None:
        self._stages = stages
        self._stage = stage
        self._clock = clock

    def __enter__(self) -> None:
        self._started_at = self._clock()

    def __exit__(self, *error: object) -> None:
        self._stages[self._stage] = self._stages.get(self._stage, 0.0) + self._clock() - self._started_at


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """A status, a body and the headers of this reply alone."""

    status: int
    body: bytes
    headers: dict[str, str]


class HeadedProblem(Problem):
    """A problem with further headers, such as Allow."""

    def __init__(self, status: int, title: str, detail: str, headers: dict[str, str]) -> None:
        super().__init__(status, title, detail)
        self._headers = headers

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that go with the status."""
        return {**super().headers, **self._headers}


def json_reply(
    value: Any, *, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None, large: bool = False
) -> Reply:
    """Return `value` as JSON; `large` encodes it in chunks, for a thread beside the event loop."""
    body = chunked_json.encode(value, _plain) if large else msgspec.json.encode(value, enc_hook=_plain)
    return Reply(int(status), body, {"Content-Type": JSON, **(headers or {})})


def problem_reply(problem: Problem, request: Request) -> Reply:
    """Return `problem` as the reply to `request`."""
    return Reply(problem.status, problem.body(instance=request.path, request_id=request.id), problem.headers)


def _plain(value: Any) -> Any:
    """Return numpy's arrays and scalars, which a user's processor may return, as JSON types."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is not JSON")


class RequestBudget:
    """Bounds the requests per model and the bytes of bodies in memory; belongs to one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._requests = limits.concurrency + limits.queue
        self._bytes = _LARGEST_BODIES * limits.body_bytes
        self._held: dict[str, int] = {}
        self._held_bytes = 0

    def held(self, model: str) -> int:
        """Return the number of requests of `model` in memory."""
        return self._held.get(model, 0)

    @property
    def held_bytes(self) -> int:
        """Return the bytes of bodies in memory."""
        return self._held_bytes

    def acquire(self, model: str) -> Permit:
        """Return the permit of one request for `model`; raise Problem (429) where its limit is reached."""
        if self.held(model) >= self._requests:
            raise too_busy(f"The gateway already has {self.held(model)} requests for model {model!r}; try again later.")
        self._held[model] = self.held(model) + 1
        return Permit(self, model)

    def reserve(self, size: int) -> None:
        """Reserve `size` more bytes; raise Problem (429) where the limit is reached."""
        if self._held_bytes + size > self._bytes:
            raise too_busy("The bodies of all requests reach the gateway's memory limit; try again later.")
        self._held_bytes += size

    def release(self, model: str, size: int) -> None:
        """Return one request and its bytes to the budget."""
        self._held[model] -= 1
        self._held_bytes -= size


class Permit:
    """The share of the budget that one request holds."""

    __slots__ = ("_budget", "_model", "_size")

    def __init__(self, budget: RequestBudget, model: str) -> None:
        self._budget: RequestBudget | None = budget
        self._model = model
        self._size = 0

    def reserve(self, size: int) -> None:
        """Reserve `size` more bytes; raise Problem (429) where the limit is reached."""
        if self._budget is not None:
            self._budget.reserve(size)
            self._size += size

    def release(self) -> None:
        """Return the share to the budget; a second call does nothing."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget.release(self._model, self._size)
