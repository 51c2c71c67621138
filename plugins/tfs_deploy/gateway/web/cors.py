"""Which web pages of other origins may read answers (the Fetch standard's CORS protocol)."""

from __future__ import annotations

from collections.abc import Collection

from tornado.httputil import HTTPHeaders

from tfs_deploy.gateway.config import Cors
from tfs_deploy.gateway.web import auth, request_id
from tfs_deploy.gateway.web.message import Reply

_SENT = ("Authorization", "Content-Type", auth.HEADER, request_id.HEADER, "X-Request-Timeout")
EXPOSED = ("X-Model-Name", "X-Model-Version", "X-Model-Label", request_id.HEADER, "Retry-After", "Server-Timing")


class CrossOrigin:
    """Makes the headers; `more_headers` are further ones that a page may send."""

    def __init__(self, config: Cors, more_headers: Collection[str] = ()) -> None:
        self._origins = frozenset(config.origins)
        self._max_age = str(config.max_age_seconds)
        self._sent = ", ".join((*_SENT, *sorted(more_headers)))

    def preflight(self, headers: HTTPHeaders, allowed: Collection[str]) -> Reply | None:
        """Return the answer to an OPTIONS of a browser that asks before it sends; None if this is no such question."""
        if not self._allows(headers) or "Access-Control-Request-Method" not in headers:
            return None
        answer = {
            "Access-Control-Allow-Methods": ", ".join(allowed),
            "Access-Control-Allow-Headers": self._sent,
            "Access-Control-Max-Age": self._max_age,
        }
        return Reply(204, b"", answer)

    def add(self, answer: HTTPHeaders, headers: HTTPHeaders) -> None:
        """Add to the headers of an `answer` what a browser looks for."""
        if not self._origins:
            return
        if "*" not in self._origins:
            answer.add("Vary", "Origin")
        if self._allows(headers):
            # No credentials: a key is sent by the page itself, cookies mean nothing here.
            answer["Access-Control-Allow-Origin"] = "*" if "*" in self._origins else headers["Origin"]
            answer["Access-Control-Expose-Headers"] = ", ".join(EXPOSED)

    def _allows(self, headers: HTTPHeaders) -> bool:
        origin = headers.get("Origin")
        return origin is not None and ("*" in self._origins or origin in self._origins)
