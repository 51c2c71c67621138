"""One HTTP request as it was read, and one answer as it will be written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
from tornado.httputil import HTTPHeaders

from tfs_deploy.gateway.problem import Problem
from tfs_deploy.gateway.web import chunked_json

JSON = "application/json"


def _no_room_needed(size: int) -> None:
    """Take no room: this request has no body."""


@dataclass(slots=True, eq=False)
class Request:
    """A request; `started` is monotonic seconds, `client` the name of the key it came with.

    `hold` takes room for so many bytes more, until the request is answered, and raises Problem where there is none.

    `notes` are for the access log: model, version, label and the seconds of each stage, as far as they are known.
    """

    method: str
    path: str
    headers: HTTPHeaders
    id: str
    remote: str
    started: float
    client: str = ""
    body: bytes = b""
    notes: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    hold: Callable[[int], None] = _no_room_needed

    def timed(self, stage: str, clock: Callable[[], float] = time.monotonic) -> Stopwatch:
        """Return what measures the time of one stage: ``with request.timed("predict"):``."""
        return Stopwatch(self.stages, stage, clock)


class Stopwatch:
    """Adds the seconds of its block to one stage."""

    __slots__ = ("_begun", "_clock", "_stage", "_stages")

    def __init__(self, stages: dict[str, float], stage: str, clock: Callable[[], float]) -> None:
        self._stages = stages
        self._stage = stage
        self._clock = clock

    def __enter__(self) -> None:
        self._begun = self._clock()

    def __exit__(self, *error: object) -> None:
        self._stages[self._stage] = self._stages.get(self._stage, 0.0) + self._clock() - self._begun


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """A status, a body and the headers that are special to it."""

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
    """Return `value` as JSON; `large` makes it in pieces, for a thread beside the event loop."""
    body = chunked_json.encode(value, _plain) if large else msgspec.json.encode(value, enc_hook=_plain)
    return Reply(status, body, {"Content-Type": JSON, **(headers or {})})


def problem_reply(problem: Problem, request: Request) -> Reply:
    """Return the answer that tells a `problem`."""
    return Reply(problem.status, problem.body(instance=request.path, request_id=request.id), problem.headers)


def _plain(value: Any) -> Any:
    """Return what a processor of the user's may answer with beside JSON's own types: numpy's arrays and scalars."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is not JSON")
