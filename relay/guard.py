"""To which addresses relay connects: strangers choose where webhooks go, so every connection passes this guard."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpx
from aiohappyeyeballs import AddrInfoType

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_REFUSED = -1
"""The errno of a refusal, which no system call has: of the errors of a name's several addresses, aiohappyeyeballs keeps
only the texts, and the errno if it is the same for all."""

NAT64 = IPv6Network("64:ff9b::/96")

# From IANA's registries of special-purpose addresses. An explicit list, because `ip_address.is_global` differs between
# Python versions and is true for 224.0.0.1, fec0::1 and 64:ff9b::7f00:1.
SPECIAL: tuple[Network, ...] = tuple(
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
    """The guard refused the address: it is not public, and RELAY_ALLOWED_NETWORKS does not hold it."""


def is_loopback(host: str | None) -> bool:
    """Whether a host, by its usual name or address, is this machine."""
    if host is not None and host.lower() == "localhost":
        return True
    try:
        address = ip_address(host or "")
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def literal_address(host: str) -> Address | None:
    """Read a URL's host as an IP address, in every way of writing that a resolver accepts; None if it is a name.

    Besides the usual forms these are IPv6 in brackets or with a zone, and what inet_aton takes: 127.1, 0x7f.1,
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


class Guard:
    """Decides to which addresses relay connects: to public ones, and to those of the allowed networks.

    It judges the address that a socket is about to connect to, so that literals, names that resolve to something else
    the second time, and every candidate of a name with several addresses meet the same check.
    """

    def __init__(self, allowed: Sequence[Network] = (), *, public: bool = True) -> None:
        self._allowed = tuple(allowed)
        self._public = public

    def permits(self, address: Address) -> bool:
        """Tell whether relay may connect to the address.

        An IPv4-mapped address is judged as the IPv4 address in it. A 6to4 or NAT64 address passes only if an allowed
        network holds it or the IPv4 address in it, and one with a zone (fe80::1%eth0) never does.
        """
        forms = [address]
        if isinstance(address, IPv6Address):
            if address.scope_id is not None:
                return False
            nat64 = IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None
            embedded = address.ipv4_mapped or address.sixtofour or nat64
            if embedded is not None:
                forms.append(embedded)
            address = address.ipv4_mapped or address
        if any(self.allows(form) for form in forms):
            return True
        return self._public and not any(address in network for network in SPECIAL)

    def plain(self) -> Guard:
        """The guard of connections without TLS: to the allowed networks alone."""
        return Guard(self._allowed, public=False)

    def allows(self, address: Address) -> bool:
        """Tell whether the allowed networks name the address, whatever else it is."""
        return any(address in network for network in self._allowed)

    def check(self, address: str) -> None:
        """Raise `Blocked` unless the text is an address that relay may connect to."""
        try:
            permitted = self.permits(ip_address(address))
        except ValueError:
            permitted = False
        if not permitted:
            what = "is not a public address" if self._public else "may not be called without TLS"
            raise Blocked(f"{address} {what}; RELAY_ALLOWED_NETWORKS can allow it")

    def open_socket(self, info: AddrInfoType) -> socket.socket:
        """Open the socket for a checked address, as the socket factory of a connector.

        Raises OSError where `check` raises `Blocked`: anything else is lost when a name has several addresses.
        """
        family, kind, protocol, _, target = info
        zone = f"%{target[3]}" if len(target) > 3 and target[3] else ""
        try:
            self.check(f"{target[0]}{zone}")
        except Blocked as refusal:
            raise OSError(_REFUSED, str(refusal)) from None
        return socket.socket(family, kind, protocol)


def refusal(error: Exception) -> Blocked | None:
    """The refusal behind an error of connecting, if `Guard.open_socket` refused every address."""
    if not isinstance(error, OSError) or error.errno != _REFUSED:
        return None
    # Of several addresses, the texts come as one: "Multiple exceptions: [Errno -1] …, [Errno -1] …".
    return Blocked(str(error.strerror).removeprefix("Multiple exceptions: ").replace(f"[Errno {_REFUSED}] ", ""))
