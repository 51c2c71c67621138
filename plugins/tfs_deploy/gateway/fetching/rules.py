"""Which URLs may be fetched: how a URL is parsed, which addresses are public, and which hosts the configuration allows.

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


def parse_url(text: object) -> Target:
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


def redirect_target(target: Target, location: str) -> Target:
    """Return where `location`, from an answer of `target`, leads; raise BadURL."""
    try:
        joined = urljoin(target.url, location)
    except ValueError as error:
        raise BadURL("cannot be read") from error
    addresses = parse_url(joined)
    if target.scheme == "https" and addresses.scheme == "http":
        raise BadURL("leads from https to http")
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
    """How far an address reaches."""

    PUBLIC = "public"
    # Loopback and private networks: only where the configuration allows the host by its name.
    PRIVATE = "inside"
    # Nothing to fetch from, or the metadata service of a cloud: only where the configuration lists the address itself.
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
# Metadata services of clouds that are not link-local; they hand out credentials to whoever asks.
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
# All that is assigned to hosts on the IPv6 internet (RFC 4291, 2.4).
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# The well-known prefix of NAT64 (RFC 6052, 2.1): a network without IPv4 reaches the public internet by it.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def address_scope(address: Address) -> AddressScope:
    """Return how far `address` reaches; an IPv4 address inside an IPv6 one counts."""
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


_USUAL_PORTS = frozenset({80, 443})
_ENTRY = re.compile(
    r"(?:\[(?P<six>[^\]]+)\]|(?P<name>[^:\[\]]+)|(?P<bare>[^\[\]]*:[^\[\]]*:[^\[\]]*))(?::(?P<port>\d{1,5}))?"
)
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class HostRule:
    """One line of a list: a host name (``*.example`` for all below it) or a network, and a port if only that one."""

    name: str
    network: _Network | None
    port: int | None

    @classmethod
    def parse_url(cls, text: str) -> HostRule:
        """Return the entry in `text`: ``name``, ``10.1.0.0/16``, ``[::1]:8080``, …; raise InvalidInput."""
        addresses = _ENTRY.fullmatch(text.strip())
        port = int(addresses["port"]) if addresses and addresses["port"] else None
        host = (addresses["six"] or addresses["name"] or addresses["bare"] or "").lower() if addresses else ""
        if not host or (port is not None and not 0 < port < 65536) or "@" in host or "//" in text:
            raise InvalidInput(
                f"The host {text!r} of the section fetch is not usable.",
                "Use a name, '*.name', an address or a network such as 10.1.0.0/16, and ':port' if needed.",
            )
        try:
            network = ipaddress.ip_network(host, strict=False)
        except ValueError:
            return cls(host.rstrip("."), None, port)
        return cls("", network, port)

    def matches_name(self, target: Target) -> bool:
        """Tell whether this entry is the name that `target` was asked for by."""
        host = target.host.rstrip(".")
        below = self.name.startswith("*.") and host.endswith(self.name[1:])
        return self.network is None and (below or host == self.name) and self._port_fits(target)

    def matches_address(self, target: Target, address: Address) -> bool:
        """Tell whether `address` is in the network of this entry."""
        if self.network is None or address.version != self.network.version:
            return False
        return address in self.network and self._port_fits(target)

    def _port_fits(self, target: Target) -> bool:
        return target.port in _USUAL_PORTS if self.port is None else target.port == self.port


class FetchRules:
    """Decides about one target and one of its addresses."""

    def __init__(self, *, allow_hosts: Sequence[str] = (), only_hosts: Sequence[str] = ()) -> None:
        self._allowed = [HostRule.parse_url(text) for text in allow_hosts]
        self._only = [HostRule.parse_url(text) for text in only_hosts]

    def may_resolve(self, target: Target) -> bool:
        """Tell whether the addresses of `target` need to be known at all; a list of names alone can say no at once."""
        by_name = not any(entry.network for entry in self._only)
        return not self._only or not by_name or any(entry.matches_name(target) for entry in self._only)

    def permits(self, target: Target, address: Address) -> bool:
        """Tell whether `target` may be fetched from `address`."""
        listed = any(entry.matches_name(target) or entry.matches_address(target, address) for entry in self._only)
        if self._only and not listed:
            return False
        if any(entry.matches_address(target, address) for entry in self._allowed):
            return True
        scope = address_scope(address)
        if any(entry.matches_name(target) for entry in self._allowed):
            return scope is not AddressScope.FORBIDDEN
        return scope is AddressScope.PUBLIC and (listed or target.port in _USUAL_PORTS)
