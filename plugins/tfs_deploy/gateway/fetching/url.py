"""Read a URL that a stranger wrote, once: what is checked is what is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import quote, urljoin, urlsplit

MAX_LENGTH = 4096
_PORTS = {"http": 80, "https": 443}
# What is in a name that a resolver may be asked for. Names like 0x7f.1 are in it: their addresses are checked.
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_-]{1,63})*\.?")
_CONTROL_OR_SPACE = re.compile(r"[\x00-\x20\x7f\\]")
# RFC 3986: what may stand in a path and a query as it is; "%" because it already is an escape.
_PATH = "/%:@!$&'()*+,;=-._~"


class BadURL(ValueError):
    """The text is no URL that may be fetched; it ends a sentence that begins with «The URL»."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to go: `host` is ASCII and in lower case, without brackets; `path` has the query and is escaped."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def host_header(self) -> str:
        """Return what the Host field of the request says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the whole URL."""
        return f"{self.scheme}://{self.host_header}{self.path}"


def parse(text: object) -> Target:
    """Return where the URL `text` leads; raise BadURL."""
    if not isinstance(text, str):
        raise BadURL("is not a string")
    if len(text) > MAX_LENGTH:
        raise BadURL(f"is longer than {MAX_LENGTH} characters")
    if _CONTROL_OR_SPACE.search(text):
        raise BadURL("has a space, a backslash or a control character in it")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise BadURL("cannot be read") from error
    if parts.scheme not in _PORTS:
        raise BadURL("does not begin with http:// or https://")
    if port == 0:
        raise BadURL("has the port 0")
    if "@" in parts.netloc:
        raise BadURL("has a user name or a password in it")
    return Target(
        parts.scheme, _host(parts.hostname or ""), port or _PORTS[parts.scheme], _path(parts.path, parts.query)
    )


def redirected(target: Target, location: str) -> Target:
    """Return where `location`, from an answer of `target`, leads; raise BadURL."""
    try:
        joined = urljoin(target.url, location)
    except ValueError as error:
        raise BadURL("cannot be read") from error
    found = parse(joined)
    if target.scheme == "https" and found.scheme == "http":
        raise BadURL("leads from https to http")
    return found


def _host(host: str) -> str:
    if ":" in host:
        try:
            address = IPv6Address(host)
        except AddressValueError as error:
            raise BadURL("has no usable host") from error
        if address.scope_id is not None:
            raise BadURL("has an address with a zone")
        return address.compressed
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise BadURL("has no usable host") from error
    name = name.lower()
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise BadURL("has no usable host")
    return name


def _path(path: str, query: str) -> str:
    try:
        escaped = quote(path or "/", safe=_PATH)
        return f"{escaped}?{quote(query, safe=_PATH + '?')}" if query else escaped
    except UnicodeEncodeError as error:
        raise BadURL("is not text") from error
