"""Which addresses the fetcher may talk to (protection against server-side request forgery).

The check is made on the very address that a socket is about to be opened to: after DNS, for the
first URL, every redirect and every proxy alike. A name that resolves differently a moment later
(rebinding), or an IP literal in an odd spelling, cannot get around it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from aiohappyeyeballs import AddrInfoType

_NAT64 = IPv6Network("64:ff9b::/96")
# Not of the public internet, although Python's older lists say so.
_NOT_GLOBAL = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))


class AddressRefused(OSError):
    """The address is private, loopback, link-local or otherwise not of the public internet."""


@dataclass(frozen=True, slots=True)
class AddressGuard:
    """`allow_private` opens everything; `allowed` names hosts, host:port or networks."""

    allow_private: bool = False
    allowed: tuple[str, ...] = ()

    def check(self, address: str, port: int, *, host: str = "") -> None:
        """Raises AddressRefused unless a connection to `address`:`port` is allowed."""
        if self.allow_private or is_public(address):
            return
        for entry in self.allowed:
            if _matches(entry, address, port, host):
                return
        raise AddressRefused(
            f"{address} is not a public address; PORTAL_ALLOWED_UPSTREAMS can allow it"
        )

    def socket_factory(self, names_of: Callable[[str], Collection[str]]) -> Any:
        """For aiohttp's TCPConnector: opens a socket only where `check` passes.

        `names_of` tells the names that were resolved to an address. An allowed name opens its own
        addresses and no others: a redirect from it to elsewhere is checked like any address.
        """

        def open_socket(info: AddrInfoType) -> socket.socket:
            family, kind, protocol, _, address = info
            self.check_names(str(address[0]), int(address[1]), names_of(str(address[0])))
            opened = socket.socket(family=family, type=kind, proto=protocol)
            opened.setblocking(False)
            return opened

        return open_socket

    def check_names(self, address: str, port: int, names: Collection[str]) -> None:
        """`check` for an address that goes by several names; one that is allowed is enough."""
        for name in names:
            try:
                return self.check(address, port, host=name)
            except AddressRefused:
                continue
        return self.check(address, port)


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet, mapped and translated forms included."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return all(_is_global(each) for each in _forms(parsed))


def _forms(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    forms: list[IPv4Address | IPv6Address] = [address]
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return [address.ipv4_mapped]
        if address.sixtofour:
            forms.append(address.sixtofour)
        if address.teredo:
            forms.extend(address.teredo)
        if address in _NAT64:
            forms = [IPv4Address(int(address) & 0xFFFFFFFF)]
    return forms


def _is_global(address: IPv4Address | IPv6Address) -> bool:
    # fec0::/10 is deprecated, and counts as global in Python; networks that still use it are inner.
    is_site_local = isinstance(address, IPv6Address) and address.is_site_local
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not is_site_local
        and not any(address in network for network in _NOT_GLOBAL)
    )


def _matches(entry: str, address: str, port: int, host: str) -> bool:
    name = entry.strip().lower()
    if not name:
        return False
    try:
        return ip_address(address.partition("%")[0]) in ip_network(name, strict=False)
    except ValueError:
        pass
    bare, colon, number = name.rpartition(":")
    if colon and number.isdigit():
        return bare.strip("[]") in {host.lower(), address} and int(number) == port
    return bool(host) and name == host.lower()
