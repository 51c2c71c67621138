"""Which URLs may be fetched: parsing of URLs, the public addresses, and the hosts that the configuration allows.

The address lists are the IANA special-purpose registries (RFC 6890 and its updates). They are written out because
`is_global` of the standard library differs between versions of Python; an address must pass both.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import quote, urljoin, urlsplit

from tfs_deploy.errors import InvalidInput

MAX_LENGTH = 4096
_PORTS = {"http": 80, "https": 443}
# Names for the resolver. Numeric spellings like 0x7f.1 match too; their addresses are checked.
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_-]{1,63})*\.?")
_CONTROL_OR_SPACE = re.compile(r"[\x00-\x20\x7f\\]")
# RFC 3986: characters that need no escape in a path and a query; "%" begins an escape.
_PATH = "/%:@!$&'()*+,;=-._~"


class BadURL(ValueError):
    """The text is not a URL that may be fetched; the message completes "The URL …"."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed URL: `host` is ASCII in lower case without brackets; `path` is escaped and includes the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def host_header(self) -> str:
        """Return the value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the whole URL."""
        return f"{self.scheme}://{self.host_header}{self.path}"


def parse_url(text: object) -> Target:
    """Return the target of the URL `text`; raise BadURL."""
    if not isinstance(text, str):
        raise BadURL("is not a string")
    if len(text) > MAX_LENGTH:
        raise BadURL(f"is longer than {MAX_LENGTH} characters")
    if _CONTROL_OR_SPACE.search(text):
        raise BadURL("has a space, a backslash or a control character")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise BadURL("is malformed") from error
    if parts.scheme not in _PORTS:
        raise BadURL("does not begin with http:// or https://")
    if port == 0:
        raise BadURL("has the port 0")
    if "@" in parts.netloc:
        raise BadURL("has a user name or a password")
    return Target(
        parts.scheme, _host(parts.hostname or ""), port or _PORTS[parts.scheme], _path(parts.path, parts.query)
    )


def redirect_target(target: Target, location: str) -> Target:
    """Return the target of the redirect `location` in a response of `target`; raise BadURL."""
    try:
        joined = urljoin(target.url, location)
    except ValueError as error:
        raise BadURL("is malformed") from error
    addresses = parse_url(joined)
    if target.scheme == "https" and addresses.scheme == "http":
        raise BadURL("redirects from https to http")
    return addresses


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


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class AddressScope(Enum):
    """Where an address is reachable."""

    PUBLIC = "public"
    # Loopback and private networks: fetched only where the configuration lists the host name or the address.
    PRIVATE = "inside"
    # Not a host, or the metadata service of a cloud: fetched only where the configuration lists the address itself.
    FORBIDDEN = "never"


_PRIVATE = [
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarking
        "::1/128",
        "fc00::/7",  # unique local
    )
]
# Metadata services of clouds that are not link-local; they give credentials to every client.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure's platform, a public address
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
    )
)
_FORBIDDEN = [
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "169.254.0.0/16",  # link-local, where clouds have their metadata service
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "2001::/23",  # protocol assignments, Teredo among them: it carries any IPv4 address inside
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries any IPv4 address inside
        "3fff::/20",  # documentation
    )
]
# Global unicast addresses (RFC 4291, 2.4).
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# The well-known prefix of NAT64 (RFC 6052, 2.1), through which IPv6-only networks reach IPv4 hosts.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def address_scope(address: Address) -> AddressScope:
    """Return the scope of `address`; an IPv4 address embedded in an IPv6 one is checked itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return AddressScope.FORBIDDEN
        if address.ipv4_mapped is not None:
            return address_scope(address.ipv4_mapped)
        if address in _NAT64:
            inner = address_scope(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
            return inner if inner is AddressScope.PUBLIC else AddressScope.FORBIDDEN
    if address in _METADATA:
        return AddressScope.FORBIDDEN
    if any(address.version == network.version and address in network for network in _PRIVATE):
        return AddressScope.PRIVATE
    if any(address.version == network.version and address in network for network in _FORBIDDEN):
        return AddressScope.FORBIDDEN
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return AddressScope.FORBIDDEN
    return AddressScope.PUBLIC if address.is_global and not address.is_multicast else AddressScope.FORBIDDEN


_DEFAULT_PORTS = frozenset({80, 443})
_ENTRY = re.compile(
    r"(?:\[(?P<six>[^\]]+)\]|(?P<name>[^:\[\]]+)|(?P<bare>[^\[\]]*:[^\[\]]*:[^\[\]]*))(?::(?P<port>\d{1,5}))?"
)
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class HostRule:
    """One entry of a list: a host name (``*.example`` matches all below) or a network, and optionally a port."""

    name: str
    network: _Network | None
    port: int | None

    @classmethod
    def parse_url(cls, text: str) -> HostRule:
        """Return the rule in `text`: ``name``, ``10.1.0.0/16``, ``[::1]:8080``, …; raise InvalidInput."""
        addresses = _ENTRY.fullmatch(text.strip())
        port = int(addresses["port"]) if addresses and addresses["port"] else None
        host = (addresses["six"] or addresses["name"] or addresses["bare"] or "").lower() if addresses else ""
        if not host or (port is not None and not 0 < port < 65536) or "@" in host or "//" in text:
            raise InvalidInput(
                f"The host {text!r} in the section `fetch` is not valid.",
                "Use a name, '*.name', an address or a network such as 10.1.0.0/16, optionally with ':port'.",
            )
        try:
            network = ipaddress.ip_network(host, strict=False)
        except ValueError:
            return cls(host.rstrip("."), None, port)
        return cls("", network, port)

    def matches_name(self, target: Target) -> bool:
        """Return whether the host name of `target` matches this rule."""
        host = target.host.rstrip(".")
        below = self.name.startswith("*.") and host.endswith(self.name[1:])
        return self.network is None and (below or host == self.name) and self._matches_port(target)

    def matches_address(self, target: Target, address: Address) -> bool:
        """Return whether `address` is in the network of this rule."""
        if self.network is None or address.version != self.network.version:
            return False
        return address in self.network and self._matches_port(target)

    def _matches_port(self, target: Target) -> bool:
        return target.port in _DEFAULT_PORTS if self.port is None else target.port == self.port


class FetchRules:
    """Decides whether a target may be fetched, by its name and by each of its addresses."""

    def __init__(self, *, allow_hosts: Sequence[str] = (), only_hosts: Sequence[str] = ()) -> None:
        self._allowed = [HostRule.parse_url(text) for text in allow_hosts]
        self._only = [HostRule.parse_url(text) for text in only_hosts]

    def may_resolve(self, target: Target) -> bool:
        """Return whether `target` may be resolved; where `only_hosts` has names alone, the name decides."""
        by_name = not any(entry.network for entry in self._only)
        return not self._only or not by_name or any(entry.matches_name(target) for entry in self._only)

    def permits(self, target: Target, address: Address) -> bool:
        """Return whether `target` may be fetched from `address`."""
        listed = any(entry.matches_name(target) or entry.matches_address(target, address) for entry in self._only)
        if self._only and not listed:
            return False
        if any(entry.matches_address(target, address) for entry in self._allowed):
            return True
        scope = address_scope(address)
        if any(entry.matches_name(target) for entry in self._allowed):
            return scope is not AddressScope.FORBIDDEN
        return scope is AddressScope.PUBLIC and (listed or target.port in _DEFAULT_PORTS)
