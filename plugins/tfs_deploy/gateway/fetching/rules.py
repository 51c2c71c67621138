"""Which hosts, ports and addresses may be fetched from: public ones on the usual ports, and what is allowed besides."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.fetching.addresses import Address, Reach, reach
from tfs_deploy.gateway.fetching.url import Target

_USUAL_PORTS = frozenset({80, 443})
_ENTRY = re.compile(
    r"(?:\[(?P<six>[^\]]+)\]|(?P<name>[^:\[\]]+)|(?P<bare>[^\[\]]*:[^\[\]]*:[^\[\]]*))(?::(?P<port>\d{1,5}))?"
)
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a list: a host name (``*.example`` for all below it) or a network, and a port if only that one."""

    name: str
    network: _Network | None
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Entry:
        """Return the entry in `text`: ``name``, ``10.1.0.0/16``, ``[::1]:8080``, …; raise InvalidInput."""
        found = _ENTRY.fullmatch(text.strip())
        port = int(found["port"]) if found and found["port"] else None
        host = (found["six"] or found["name"] or found["bare"] or "").lower() if found else ""
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

    def names(self, target: Target) -> bool:
        """Tell whether this entry is the name that `target` was asked for by."""
        host = target.host.rstrip(".")
        below = self.name.startswith("*.") and host.endswith(self.name[1:])
        return self.network is None and (below or host == self.name) and self._port_fits(target)

    def holds(self, target: Target, address: Address) -> bool:
        """Tell whether `address` is in the network of this entry."""
        if self.network is None or address.version != self.network.version:
            return False
        return address in self.network and self._port_fits(target)

    def _port_fits(self, target: Target) -> bool:
        return target.port in _USUAL_PORTS if self.port is None else target.port == self.port


class Rules:
    """Decides about one target and one of its addresses."""

    def __init__(self, *, allow_hosts: Sequence[str] = (), only_hosts: Sequence[str] = ()) -> None:
        self._allowed = [Entry.parse(text) for text in allow_hosts]
        self._only = [Entry.parse(text) for text in only_hosts]

    def may_ask(self, target: Target) -> bool:
        """Tell whether the addresses of `target` need to be known at all; a list of names alone can say no at once."""
        by_name = not any(entry.network for entry in self._only)
        return not self._only or not by_name or any(entry.names(target) for entry in self._only)

    def permits(self, target: Target, address: Address) -> bool:
        """Tell whether `target` may be fetched from `address`."""
        listed = any(entry.names(target) or entry.holds(target, address) for entry in self._only)
        if self._only and not listed:
            return False
        if any(entry.holds(target, address) for entry in self._allowed):
            return True
        far = reach(address)
        if any(entry.names(target) for entry in self._allowed):
            return far is not Reach.NEVER
        return far is Reach.PUBLIC and (listed or target.port in _USUAL_PORTS)
