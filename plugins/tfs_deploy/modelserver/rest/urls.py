"""The URLs of the REST API: which model, version or label, and what is asked for (contract 8 and 20.11)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from tfs_deploy.modelserver.status import invalid_argument
from tfs_deploy.serving.codec import messages

_NAME = r"[^/:]+"
_CHOICE = rf"(?:(?:/versions/(?P<version>[0-9]+))|(?:/labels/(?P<label>{_NAME})))?"
_RUN = re.compile(rf"/v1/models/(?P<model>{_NAME}){_CHOICE}:(?P<method>classify|regress|predict)", re.IGNORECASE)
_LOOK = re.compile(rf"/v1/models(?:/(?P<model>{_NAME}))?{_CHOICE}(?:/(?P<method>metadata))?", re.IGNORECASE)
_SERVED = re.compile(r"/v1/.*", re.IGNORECASE)

# What libevent takes for a URI: other characters must be percent-encoded.
_CHAR = r"[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2}"
_URI = re.compile(
    rf"(?:(?:[A-Za-z][A-Za-z0-9+.\-]*:)?//[^/?#]*)?(?P<path>(?:{_CHAR})*)"
    rf"(?P<rest>(?:\?(?:{_CHAR}|\?)*)?(?:\#(?:{_CHAR}|\?)*)?)"
)

_INT64_MAX = 2**63 - 1


class BadVersion(Exception):
    """The version in the URL is no int64: TF Serving answers 400 with an empty body."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL means; `method` is predict, classify, regress, metadata, or empty for the status."""

    model: str
    method: str
    version: int | None = None
    label: str | None = None

    def spec(self) -> Any:
        """Return the ModelSpec."""
        spec = messages.ModelSpec(name=self.model)
        if self.version is not None:
            spec.version.value = self.version
        if self.label is not None:
            spec.version_label = self.label
        return spec


def split(uri: str) -> tuple[str, str] | None:
    """Return the path, and the path with query and fragment; None for what is no URI."""
    found = _URI.fullmatch(uri)
    return None if found is None else (found["path"], found["path"] + found["rest"])


def is_served(path: str) -> bool:
    """Tell whether the REST API answers for `path`; everything else is a bare 404."""
    return _SERVED.fullmatch(path) is not None


def parse(http_method: str, path: str) -> Target:
    """Return what the request line asks for; raise INVALID_ARGUMENT or BadVersion.

    `path` is as it came, with the query, which counts as part of the name. Everything is matched without regard to
    case, but a method in other letters than small ones is no method.
    """
    malformed = invalid_argument(f"Malformed request: {http_method} {_text(path.encode('latin-1', 'replace'))}")
    pattern = {"POST": _RUN, "GET": _LOOK}.get(http_method)
    found = pattern.fullmatch(path) if pattern else None
    if found is None:
        raise malformed
    version = found["version"]
    if version is not None and int(version) > _INT64_MAX:
        raise BadVersion(version)
    method = found["method"] or ""
    if http_method == "POST" and method != method.lower():
        raise malformed
    return Target(
        model=_decoded(found["model"] or ""),
        method="metadata" if method == "metadata" else method if http_method == "POST" else "",
        version=None if version is None else int(version),
        label=None if found["label"] is None else _decoded(found["label"]),
    )


def _decoded(name: str) -> str:
    """Return a name without its percent signs."""
    return _text(unquote_to_bytes(name.encode("latin-1", "replace")))


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
