"""The guard decides to which addresses relay connects. Apps choose where webhooks go, so it checks every connection."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpx
from aiohappyeyeballs import AddrInfoType

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_BLOCKED_ERRNO = -1
"""The errno of a blocked address, which no system call returns.

When all addresses of a name fail, aiohappyeyeballs keeps their texts, and the errno if it is the same for all.
"""

NAT64 = IPv6Network("64:ff9b::/96")

_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""What stands in an ISATAP address, below any prefix, before the IPv4 address: https://www.rfc-editor.org/rfc/rfc5214"""

# From IANA's registries of special-purpose addresses. An explicit list, because `ip_address.is_global` differs between
# Python versions and is true for 224.0.0.1, fec0::1 and 64:ff9b::7f00:1.
SPECIAL: tuple[IPNetwork, ...] = tuple(
    ip_network(network)
    for networks in (
        "0.0.0.0/8 127.0.0.0/8",  # this host; Linux connects 0.0.0.0 to itself
        "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10",  # private, carrier-grade NAT
        "169.254.0.0/16",  # link-local, with the metadata services of the clouds
        "168.63.129.16/32",  # in no registry: the host agent of Azure, reached from inside only
        "192.0.0.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.175.48.0/24",  # protocols, AS112, 6to4 relays
        "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 198.18.0.0/15",  # documentation, benchmarking
        "224.0.0.0/4 240.0.0.0/4",  # multicast, reserved, broadcast
        # Global unicast is 2000::/3 alone. Outside it lie ::1, the IPv4-compatible ::/96, NAT64 64:ff9b::/96 and
        # 64:ff9b:1::/48, discard 100::/64, SRv6 5f00::/16, fc00::/7, fe80::/10, fec0::/10 and ff00::/8.
        "::/3 4000::/2 8000::/1",
        "2001::/23 2002::/16 2620:4f:8000::/48",  # Teredo, benchmarking, ORCHID, 6to4, AS112
        "2001:db8::/32 3fff::/20",  # documentation
    )
    for network in networks.split()
)


class Blocked(httpx.ConnectError):
    """The guard refuses the address: it is not public, and not in RELAY_ALLOWED_NETWORKS."""


def is_loopback(host: str | None) -> bool:
    """Return whether a host, given by its usual name or by an address, is this machine."""
    if host is not None and host.lower() == "localhost":
        return True
    try:
        address = ip_address(host or "")
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def literal_address(host: str) -> IPAddress | None:
    """Read a URL's host as an IP address, in every notation that a resolver accepts. Return None for a name.

    Besides the usual notations these are IPv6 in brackets or with a zone, and what inet_aton takes: 127.1, 0x7f.1,
    0177.0.0.1, 2130706433.
    """
    host = host.removeprefix("[").removesuffix("]")
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host.removesuffix(".")))
    except (OSError, ValueError):
        return None


def _isatap(address: IPAddress) -> bool:
    return isinstance(address, IPv6Address) and int(address) >> 32 & 0xFFFFFFFF in _ISATAP


def _forms(address: IPAddress) -> list[IPAddress]:
    """Return an address, and the IPv4 address to which a tunnel or translator would lead from it."""
    if isinstance(address, IPv4Address):
        return [address]
    lowest = IPv4Address(int(address) & 0xFFFFFFFF)
    translated = lowest if address in NAT64 or _isatap(address) else None
    embedded = address.ipv4_mapped or address.sixtofour or translated
    return [address] if embedded is None else [address, embedded]


class Guard:
    """Decides to which addresses relay connects: to public ones, and to those in the allowed networks.

    It checks the address that a socket is about to connect to. So the same check applies to literal addresses, to names
    that resolve differently the second time, and to each address of a name that has several.

    Args:
        allowed: networks that may be called although they are not public.
        blocked: networks that may not be called although they are public or allowed.
        public: whether public addresses may be called.
    """

    def __init__(
        self, allowed: Sequence[IPNetwork] = (), blocked: Sequence[IPNetwork] = (), *, public: bool = True
    ) -> None:
        self._allowed = tuple(allowed)
        self._blocked = tuple(blocked)
        self._public = public

    def permits(self, address: IPAddress) -> bool:
        """Return whether relay may connect to the address.

        An IPv4-mapped address counts as the IPv4 address in it. A 6to4, NAT64 or ISATAP address is permitted only if an
        allowed network contains it or the IPv4 address in it. An address with a zone (fe80::1%eth0) is never permitted,
        nor one that a blocked network contains, or whose IPv4 address it contains.
        """
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return False
        forms = _forms(address)
        if any(self._blocks(form) for form in forms):
            return False
        if any(self.allows(form) for form in forms):
            return True
        plain = forms[-1] if isinstance(address, IPv6Address) and address.ipv4_mapped else address
        return self._public and not _isatap(address) and not any(plain in network for network in SPECIAL)

    def plain(self) -> Guard:
        """Return the guard for connections without TLS, which permits the allowed networks only."""
        return Guard(self._allowed, self._blocked, public=False)

    def allows(self, address: IPAddress) -> bool:
        """Return whether the address is in an allowed network, and in no blocked one."""
        return not self._blocks(address) and any(address in network for network in self._allowed)

    def _blocks(self, address: IPAddress) -> bool:
        return any(address in network for network in self._blocked)

    def check(self, address: str) -> None:
        """Raise `Blocked` unless the text is an address that relay may connect to."""
        forms: list[IPAddress] = []
        permitted = False
        with contextlib.suppress(ValueError):
            forms = _forms(ip_address(address))
            permitted = self.permits(forms[0])
        if any(self._blocks(form) for form in forms):
            raise Blocked(f"{address} is in RELAY_BLOCKED_NETWORKS")
        if not permitted:
            problem = "is not a public address" if self._public else "may not be called without TLS"
            raise Blocked(f"{address} {problem}; RELAY_ALLOWED_NETWORKS can allow it")

    def open_socket(self, info: AddrInfoType) -> socket.socket:
        """Check an address and open a socket for it, as the socket factory of a connector.

        Raises:
            OSError: the address is blocked. When a name has several addresses, other exceptions are lost.
        """
        family, kind, protocol, _, target = info
        zone = f"%{target[3]}" if len(target) > 3 and target[3] else ""
        try:
            self.check(f"{target[0]}{zone}")
        except Blocked as error:
            raise OSError(_BLOCKED_ERRNO, str(error)) from None
        return socket.socket(family, kind, protocol)


def as_blocked(error: Exception) -> Blocked | None:
    """Return the `Blocked` behind an error of connecting; None if `Guard.open_socket` did not block each address."""
    if not isinstance(error, OSError) or error.errno != _BLOCKED_ERRNO:
        return None
    # The texts of several addresses come as one: "Multiple exceptions: [Errno -1] …, [Errno -1] …".
    texts = str(error.strerror).removeprefix("Multiple exceptions: ")
    return Blocked(texts.replace(f"[Errno {_BLOCKED_ERRNO}] ", ""))
