"""Which handler answers a method and a path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote

from tfs_deploy.gateway.problem import not_found
from tfs_deploy.gateway.web.message import HeadedProblem, Reply, Request

Handler = Callable[[Request, Mapping[str, str]], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """`path` is like ``/v1/models/{model}``; `public` needs no key; `takes_body` is read before `handler` runs."""

    method: str
    path: str
    handler: Handler
    public: bool = False
    takes_body: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """What was found for one request."""

    route: Route
    arguments: dict[str, str] = field(default_factory=dict)


class Routes:
    """All routes of the gateway; a GET route answers HEAD too."""

    def __init__(self, routes: list[Route]) -> None:
        self._plain: dict[str, list[Route]] = {}
        self._patterns: list[tuple[tuple[str, ...], Route]] = []
        for route in routes:
            if "{" in route.path:
                self._patterns.append((tuple(route.path.split("/")), route))
            else:
                self._plain.setdefault(route.path, []).append(route)

    def match(self, method: str, path: str) -> Match:
        """Return the route of a request; raise Problem (404, 405)."""
        found = self._at(path)
        for match in found:
            if match.route.method == ("GET" if method == "HEAD" else method):
                return match
        if not found:
            raise not_found("There is nothing at this path; the gateway's /openapi.json lists what there is.")
        allowed = ", ".join(self._methods(found))
        raise HeadedProblem(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "Method not allowed",
            f"This path takes {allowed} only.",
            {"Allow": allowed},
        )

    def allowed(self, path: str) -> tuple[str, ...]:
        """Return the methods that `path` takes, none if there is no such path."""
        return self._methods(self._at(path))

    def _at(self, path: str) -> list[Match]:
        plain = self._plain.get(path)
        if plain is not None:
            return [Match(route) for route in plain]
        segments = path.split("/")
        found = []
        for pattern, route in self._patterns:
            if len(pattern) == len(segments):
                arguments = _arguments(pattern, segments)
                if arguments is not None:
                    found.append(Match(route, arguments))
        return found

    def _methods(self, found: list[Match]) -> tuple[str, ...]:
        methods: list[str] = []
        for match in found:
            methods += ["GET", "HEAD"] if match.route.method == "GET" else [match.route.method]
        return tuple(methods)


def _arguments(pattern: Sequence[str], segments: Sequence[str]) -> dict[str, str] | None:
    arguments = {}
    for wanted, given in zip(pattern, segments, strict=True):
        if wanted.startswith("{"):
            arguments[wanted[1:-1]] = unquote(given)
        elif wanted != given:
            return None
    return arguments
