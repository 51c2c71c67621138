"""The page at ``/`` on which a model can be tried: one document, one style sheet, one script, nothing from outside."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from tfs_deploy import __version__
from tfs_deploy.gateway.problem import not_found
from tfs_deploy.gateway.web.message import Reply, Request

# `blob:` is the preview of a picture that was chosen; everything else comes from here, and nothing is inline.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES = {
    "icon.svg": "image/svg+xml",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}


class Page:
    """The page and its files, held in memory; `keys` tells whether a request needs one."""

    def __init__(self, *, keys: bool, most_bytes: int) -> None:
        environment = Environment(
            loader=PackageLoader("tfs_deploy.gateway.web"), autoescape=True, undefined=StrictUndefined
        )
        static = resources.files("tfs_deploy.gateway.web") / "static"
        self._files = {name: (static / name).read_bytes() for name in _FILES}
        # In the address of each file, so that a browser never shows a new page with an old script.
        digest = hashlib.sha256(b"".join(self._files.values())).hexdigest()[:12]
        template = environment.get_template("page.html")
        self._page = template.render(version=__version__, keys=keys, digest=digest, most_bytes=most_bytes).encode()

    async def page(self, request: Request, arguments: Mapping[str, str]) -> Reply:
        """Answer with the page."""
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": _POLICY,
            "Cache-Control": "no-cache",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        }
        return Reply(200, self._page, headers)

    async def file(self, request: Request, arguments: Mapping[str, str]) -> Reply:
        """Answer with one of its files; raise Problem (404)."""
        name = arguments["file"]
        if name not in self._files:
            raise not_found("There is no such file.")
        headers = {"Content-Type": _FILES[name], "Cache-Control": "public, max-age=31536000, immutable"}
        return Reply(200, self._files[name], headers)
