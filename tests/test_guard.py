"""Which addresses are public, however they are written."""

import re
from ipaddress import ip_address, ip_network

import pytest

from relay.guard import Blocked, Guard, literal_address

SPECIAL = """
    0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16 169.254.169.254
    172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.19.255.255
    198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::7f00:1 ::808:808 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::808:808
    64:ff9b:1::7f00:1 100::1 100:0:0:1::1 2001::1 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1::
    2002:808:808:: 3fff::1 4000::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 2606:4700::1111%eth0 febf::1
    fec0::1 ff02::1 ff0e::1
"""

PUBLIC = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 172.15.255.255
    172.32.0.0 192.167.255.255 198.17.255.255 198.20.0.0 223.255.255.255 ::ffff:8.8.8.8 2001:4860:4860::8888
    2001:200::1 2606:4700:4700::1111 2a00:1450::1 3ffe:ffff::1
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
