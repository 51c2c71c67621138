"""The routes of the gateway, and the steps of every request: key, admission, reply, headers, access log, metrics."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib import resources
from urllib.parse import unquote

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from tornado.httputil import HTTPHeaders

from tfs_deploy import __version__
from tfs_deploy.gateway.config import GatewayConfig
from tfs_deploy.gateway.fetching.fetch import Fetcher
from tfs_deploy.gateway.problem import Problem, internal, not_found, unavailable
from tfs_deploy.gateway.web import openapi
from tfs_deploy.gateway.web.auth import CrossOrigin, Keys
from tfs_deploy.gateway.web.body import check_kind
from tfs_deploy.gateway.web.endpoint import Endpoint, Health
from tfs_deploy.gateway.web.message import (
    JSON,
    REQUEST_ID_HEADER,
    HeadedProblem,
    Permit,
    Reply,
    Request,
    RequestBudget,
    json_reply,
    problem_reply,
    request_id,
)
from tfs_deploy.gateway.web.metrics import METRICS_CONTENT_TYPE, AccessLog, Metrics
from tfs_deploy.gateway.web.predict import PredictHandler

Handler = Callable[[Request, Mapping[str, str]], Awaitable[Reply]]
# `blob:` is the preview of a chosen picture; everything else comes from this origin, and nothing is inline.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES = {
    "icon.svg": "image/svg+xml",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
logger = logging.getLogger(__name__)
# For a large picture over a slow line; the request's own timeout starts after its body.
_BODY_SECONDS = 30.0
_MODEL_PATHS = ("/v1/models/{model}", "/v1/models/{model}/labels/{label}")


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path like ``/v1/models/{model}``; `public` needs no key, `takes_body` has its body read first."""

    method: str
    path: str
    handler: Handler
    public: bool = False
    takes_body: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """The route of one request, with the values of its path's placeholders."""

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
        matches = self._matches(path)
        for match in matches:
            if match.route.method == ("GET" if method == "HEAD" else method):
                return match
        if not matches:
            raise not_found("This path does not exist; /openapi.json lists the paths of this gateway.")
        allowed = ", ".join(self._methods(matches))
        raise HeadedProblem(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "Method not allowed",
            f"This path allows {allowed} only; use one of these methods.",
            {"Allow": allowed},
        )

    def allowed(self, path: str) -> tuple[str, ...]:
        """Return the methods that `path` allows, none if the path does not exist."""
        return self._methods(self._matches(path))

    def _matches(self, path: str) -> list[Match]:
        plain = self._plain.get(path)
        if plain is not None:
            return [Match(route) for route in plain]
        segments = path.split("/")
        matches = []
        for pattern, route in self._patterns:
            if len(pattern) == len(segments):
                arguments = _arguments(pattern, segments)
                if arguments is not None:
                    matches.append(Match(route, arguments))
        return matches

    def _methods(self, matches: list[Match]) -> tuple[str, ...]:
        methods: list[str] = []
        for match in matches:
            methods += ["GET", "HEAD"] if match.route.method == "GET" else [match.route.method]
        return tuple(methods)


def _arguments(pattern: Sequence[str], segments: Sequence[str]) -> dict[str, str] | None:
    arguments = {}
    for sampled, segment in zip(pattern, segments, strict=True):
        if sampled.startswith("{"):
            arguments[sampled[1:-1]] = unquote(segment)
        elif sampled != segment:
            return None
    return arguments


class Page:
    """The page at ``/`` for trying a model, and its files, held in memory; `keys` says whether requests need a key."""

    def __init__(self, *, keys: bool, max_bytes: int) -> None:
        environment = Environment(
            loader=PackageLoader("tfs_deploy.gateway.web"), autoescape=True, undefined=StrictUndefined
        )
        static = resources.files("tfs_deploy.gateway.web") / "static"
        self._files = {name: (static / name).read_bytes() for name in _FILES}
        # Part of each file's URL, so that a browser never combines a new page with a cached script.
        digest = hashlib.sha256(b"".join(self._files.values())).hexdigest()[:12]
        template = environment.get_template("page.html")
        self._page = template.render(version=__version__, keys=keys, digest=digest, max_bytes=max_bytes).encode()

    async def page(self, request: Request, arguments: Mapping[str, str]) -> Reply:
        """Reply with the page."""
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": _POLICY,
            "Cache-Control": "no-cache",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        }
        return Reply(200, self._page, headers)

    async def file(self, request: Request, arguments: Mapping[str, str]) -> Reply:
        """Reply with one of its files; raise Problem (404)."""
        name = arguments["file"]
        if name not in self._files:
            raise not_found("This file does not exist; /static/ has only the files of the page.")
        headers = {"Content-Type": _FILES[name], "Cache-Control": "public, max-age=31536000, immutable"}
        return Reply(200, self._files[name], headers)


class Application:
    """Admits and answers requests (see `server.IncomingRequest`); belongs to one event loop."""

    body_seconds = _BODY_SECONDS

    def __init__(
        self,
        config: GatewayConfig,
        models: Sequence[Endpoint],
        *,
        keys: Keys,
        fetcher: Fetcher,
        metrics: Metrics,
        access_log: AccessLog,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.body_bytes = config.limits.body_bytes
        self.budget = RequestBudget(config.limits)
        self.health = Health(models)
        self.in_flight = 0
        self.model_requests = 0
        self.refusing = False
        self._models = {endpoint.name: endpoint for endpoint in models}
        self._keys = keys
        self._predictions = PredictHandler(config, fetcher, monotonic=monotonic, wall=wall)
        self._metrics = metrics
        self._access_log = access_log
        self._monotonic = monotonic
        self._wall = wall
        self._cross_origin = CrossOrigin(config.cors, _sticky_headers(models))
        self._openapi = msgspec.json.encode(openapi.document(config, models, keys=keys.required))
        self._secure = config.listen.tls is not None
        self._routes = Routes(self._all_routes(config))
        self._idle = asyncio.Event()

    # --- called by `IncomingRequest` ----------------------------------------------------------------------------------

    def start_request(self, method: str, path: str, headers: HTTPHeaders, remote: str) -> Request:
        """Return a new request, counted as in flight until `end_request`."""
        self.in_flight += 1
        self._idle.clear()
        client_id = request_id(headers.get(REQUEST_ID_HEADER))
        return Request(method, path, headers, client_id, remote, self._monotonic())

    def admit(self, request: Request) -> tuple[Match, Permit | None]:
        """Return the route and, for a predict request, its permit; raise Problem."""
        if self.refusing:
            raise unavailable("This gateway is shutting down; try again.")
        if request.method == "OPTIONS":
            allowed = self._routes.allowed(request.path)
            preflight = self._cross_origin.preflight(request.headers, allowed)
            if allowed and preflight is not None:
                return _fixed_reply(preflight), None
        match = self._routes.match(request.method, request.path)
        if not match.route.public:
            request.client = self._keys.client(request.headers)
        if not match.route.takes_body:
            return match, None
        endpoint = self._endpoint(match.arguments)
        request.log_fields["model"] = endpoint.name
        check_kind(request.headers)
        self.model_requests += 1
        permit = self.budget.acquire(endpoint.name)
        request.reserve = permit.reserve
        return match, permit

    async def answer(self, request: Request, match: Match) -> Reply:
        """Return the reply; every error becomes a problem document."""
        try:
            return await match.route.handler(request, match.arguments)
        except Problem as problem:
            return problem_reply(problem, request)
        except Exception:  # the client learns no details of a bug
            logger.exception("Request %s failed", request.id)
            return problem_reply(internal(), request)

    def headers(self, request: Request, reply: Reply) -> HTTPHeaders:
        """Return all headers of a reply."""
        headers = HTTPHeaders(reply.headers)
        headers[REQUEST_ID_HEADER] = request.id
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        if reply.status != HTTPStatus.NO_CONTENT:
            headers["Content-Length"] = str(len(reply.body))
        if "Cache-Control" not in headers:
            headers["Cache-Control"] = "no-store"
        if self._secure:
            headers["Strict-Transport-Security"] = "max-age=31536000"
        if self.health.draining:
            headers["Connection"] = "close"
        self._cross_origin.add(headers, request.headers)
        return headers

    def end_request(self, request: Request, status: int, size: int) -> None:
        """Record the status and the bytes of the reply; status 499 means that the client disconnected."""
        seconds = self._monotonic() - request.started
        self._metrics.record_request(request, status, seconds)
        self._access_log.log(request, status, size, seconds, self._wall())
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    # --- shutdown ----------------------------------------------------------------------------------------------------

    async def wait_until_idle(self, seconds: float) -> bool:
        """Wait at most `seconds` until no request is in flight; return whether that was reached."""
        if self.in_flight:
            waiter = asyncio.ensure_future(self._idle.wait())
            await asyncio.wait({waiter}, timeout=seconds)
            waiter.cancel()
        return not self.in_flight

    # --- handlers ---------------------------------------------------------------------------------------------------

    def _all_routes(self, config: GatewayConfig) -> list[Route]:
        routes = [
            Route("GET", "/healthz", self.health.live, public=True),
            Route("GET", "/readyz", self.health.ready, public=True),
            Route("GET", "/metrics", self._show_metrics),
            Route("GET", "/openapi.json", self._show_openapi),
            Route("GET", "/v1/models", self._list),
            Route("GET", _MODEL_PATHS[0], self._describe),
            *(Route("POST", path, self._predict, takes_body=True) for path in _MODEL_PATHS),
        ]
        if config.page.enabled:
            page = Page(keys=self._keys.required, max_bytes=self.body_bytes)
            routes.append(Route("GET", "/", page.page, public=True))
            routes.append(Route("GET", "/static/{file}", page.file, public=True))
        return routes

    async def _predict(self, request: Request, arguments: Mapping[str, str]) -> Reply:
        return await self._predictions.answer(self._endpoint(arguments), request, arguments.get("label"))

    async def _list(self, request: Request, arguments: Mapping[str, str]) -> Reply:
        await asyncio.gather(*(endpoint.upstream.ready() for endpoint in self._models.values()))
        return json_reply({"models": [endpoint.description() for endpoint in self._models.values()]})

    async def _describe(self, request: Request, arguments: Mapping[str, str]) -> Reply:
        endpoint = self._endpoint(arguments)
        await endpoint.upstream.ready()
        return json_reply(endpoint.description())

    async def _show_metrics(self, request: Request, arguments: Mapping[str, str]) -> Reply:
        return Reply(HTTPStatus.OK, self._metrics.text(), {"Content-Type": METRICS_CONTENT_TYPE})

    async def _show_openapi(self, request: Request, arguments: Mapping[str, str]) -> Reply:
        return Reply(HTTPStatus.OK, self._openapi, {"Content-Type": JSON})

    def _endpoint(self, arguments: Mapping[str, str]) -> Endpoint:
        """Return the endpoint of a path; raise Problem (404)."""
        endpoint = self._models.get(arguments["model"])
        if endpoint is None:
            raise not_found(
                f"There is no model {arguments['model'][:64]!r}; use one of: {', '.join(sorted(self._models))}."
            )
        label = arguments.get("label")
        # With `mode: latest` the model's own label is empty, and cannot be requested.
        if label is not None and (not label or label not in (endpoint.config.label, *endpoint.config.labels)):
            raise not_found(f"Model {endpoint.name!r} has no label {label[:64]!r}; GET /v1/models lists the labels.")
        return endpoint


def _fixed_reply(reply: Reply) -> Match:
    async def handler(request: Request, arguments: Mapping[str, str]) -> Reply:
        return reply

    return Match(Route("OPTIONS", "*", handler))


def _sticky_headers(models: Sequence[Endpoint]) -> Collection[str]:
    headers = (endpoint.config.canary.sticky_header for endpoint in models if endpoint.config.canary)
    return {header for header in headers if header}
