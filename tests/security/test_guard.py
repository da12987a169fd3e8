"""Which addresses are public, however they are written."""

import re
from ipaddress import ip_address, ip_network

import pytest

from relay.security.guard import Blocked, Guard, literal_address

SPECIAL = """
    0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16 169.254.169.254
    172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.19.255.255
    198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::7f00:1 ::808:808 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::808:808
    64:ff9b:1::7f00:1 100::1 100:0:0:1::1 2001::1 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1::
    2002:808:808:: 3fff::1 4000::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 2606:4700::1111%eth0 febf::1
    fec0::1 ff02::1 ff0e::1 2606:4700::5efe:7f00:1 2606:4700::200:5efe:a00:1 2606:4700::5efe:808:808
"""

PUBLIC = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 172.15.255.255
    172.32.0.0 192.167.255.255 198.17.255.255 198.20.0.0 223.255.255.255 ::ffff:8.8.8.8 2001:4860:4860::8888
    2001:200::1 2606:4700:4700::1111 2a00:1450::1 3ffe:ffff::1 2606:4700::5eff:7f00:1 2606:4700::5efe:7f00
"""


@pytest.mark.parametrize("address", SPECIAL.split())
def test_special_addresses_are_refused(address: str) -> None:
    assert not Guard().permits(ip_address(address))
    with pytest.raises(Blocked, match=re.escape(address) + ".*RELAY_ALLOWED_NETWORKS"):
        Guard().check(address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public_addresses_are_permitted(address: str) -> None:
    Guard().check(address)


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "2130706433", "1.1.1.1 ", "1.1.1.1:80", "[2606:4700::1]"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(Blocked):
        Guard([ip_network("0.0.0.0/0"), ip_network("::/0")]).check(text)


@pytest.mark.parametrize(
    ("network", "permitted", "refused"),
    [
        ("10.0.0.0/8", "10.1.2.3 ::ffff:10.1.2.3 64:ff9b::a01:203 2002:a01:203::1", "127.0.0.1 64:ff9b::7f00:1"),
        ("10.0.0.0/8", "2606:4700::5efe:a01:203", "2606:4700::5efe:7f00:1"),
        ("::1/128", "::1", ":: ::2 127.0.0.1"),
        ("fd00::/8", "fd00:ec2::254", "fc00::1 fd00::1%eth0"),
        ("64:ff9b::/96", "64:ff9b::808:808", "64:ff9b:1::808:808"),
        ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", "::ffff:127.0.0.1"),
        ("169.254.169.254/32", "169.254.169.254", "169.254.169.253"),
    ],
)  # fmt: skip
def test_allowed_networks(network: str, permitted: str, refused: str) -> None:
    guard = Guard([ip_network(network)])
    assert [address for address in permitted.split() if not guard.permits(ip_address(address))] == []
    assert [address for address in refused.split() if guard.permits(ip_address(address))] == []


def test_a_blocked_network_is_blocked_whatever_else_allows_it() -> None:
    blocked = [ip_network(network) for network in ("10.9.0.0/16", "8.8.8.0/24", "2606:4700:64::/96")]
    guard = Guard([ip_network("10.0.0.0/8"), ip_network("2606:4700:64::/96")], blocked)
    refused = "10.9.0.1 8.8.8.8 ::ffff:8.8.8.8 64:ff9b::a09:1 2002:a09:1:: 2606:4700::5efe:a09:1 2606:4700:64::a01:203"
    for address in refused.split():
        assert not guard.permits(ip_address(address))
        assert not guard.plain().permits(ip_address(address))
        assert not guard.allows(ip_address(address)) or address != "10.9.0.1"
        with pytest.raises(Blocked, match=re.escape(address) + " is in RELAY_BLOCKED_NETWORKS"):
            guard.check(address)
    for address in ("10.8.0.1", "8.8.4.4", "2606:4700:65::1"):
        guard.check(address)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"), ("127.1", "127.0.0.1"), ("127.0.1", "127.0.0.1"), ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"), ("0x7f.1", "127.0.0.1"), ("0177.0.0.1", "127.0.0.1"), ("0", "0.0.0.0"),
        ("017700000001", "127.0.0.1"), ("127.0.0.1.", "127.0.0.1"), ("[127.0.0.1]", "127.0.0.1"),
        ("::1", "::1"), ("[::1]", "::1"), ("0:0:0:0:0:0:0:1", "::1"),
        ("::ffff:7f00:1", "::ffff:127.0.0.1"), ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1"),
        ("fe80::1%eth0", "fe80::1%eth0"), ("[fe80::1%25eth0]", "fe80::1%25eth0"),
    ],
)  # fmt: skip
def test_addresses_in_every_way_of_writing(host: str, address: str) -> None:
    assert literal_address(host) == ip_address(address)


@pytest.mark.parametrize(
    "host", ["", ".", "localhost", "example.com", "1.example", "256.1.1.1", "1.2.3.4.5", "::1::", "0x"]
)
def test_names_are_no_addresses(host: str) -> None:
    assert literal_address(host) is None
