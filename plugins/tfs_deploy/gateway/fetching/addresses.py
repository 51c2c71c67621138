"""Which addresses a stranger may make the gateway connect to: public ones, whatever the resolver says.

The lists are the IANA special-purpose registries (RFC 6890 and its updates), written out because `is_global` of the
standard library has changed between versions of Python; an address must pass both.
"""

from __future__ import annotations

import ipaddress
from enum import Enum

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Reach(Enum):
    """How far an address reaches."""

    PUBLIC = "public"
    # Loopback and private networks: only where the configuration allows the host by its name.
    INSIDE = "inside"
    # Nothing to fetch from, or the metadata service of a cloud: only where the configuration lists the address itself.
    NEVER = "never"


_INSIDE = [
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
_NEVER = [
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


def reach(address: Address) -> Reach:
    """Return how far `address` reaches; an IPv4 address inside an IPv6 one counts."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return Reach.NEVER
        if address.ipv4_mapped is not None:
            return reach(address.ipv4_mapped)
        if address in _NAT64:
            inner = reach(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
            return inner if inner is Reach.PUBLIC else Reach.NEVER
    if address in _METADATA:
        return Reach.NEVER
    if any(address.version == network.version and address in network for network in _INSIDE):
        return Reach.INSIDE
    if any(address.version == network.version and address in network for network in _NEVER):
        return Reach.NEVER
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return Reach.NEVER
    return Reach.PUBLIC if address.is_global and not address.is_multicast else Reach.NEVER
